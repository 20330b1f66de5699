# SPDX-License-Identifier: Apache-2.0
"""Parameters and FLOPs against the published models (paper, Table 9)."""

from __future__ import annotations

import dataclasses

import pytest
from planned import T5_BASE

from switch_t5.model.config import ModelConfig
from switch_t5.model.cost import forward_flops_per_sequence, parameter_count
from switch_t5.model.router_config import RouterConfig

T5_LARGE = dataclasses.replace(
  T5_BASE, d_model=1024, d_ff=4096, num_heads=16, num_encoder_layers=24, num_decoder_layers=24
)


def switch(dense: ModelConfig, num_experts: int) -> ModelConfig:
  """Every other layer sparse."""
  return dataclasses.replace(
    dense,
    num_experts=num_experts,
    num_encoder_sparse_layers=dense.num_encoder_layers // 2,
    num_decoder_sparse_layers=dense.num_decoder_layers // 2,
    sequences_per_group=8,
  )


@pytest.mark.smoke
@pytest.mark.parametrize(
  ("config", "millions", "digit"),
  [
    (T5_BASE, 222.9, 0.05),
    (switch(T5_BASE, 8), 619, 0.5),
    (switch(T5_BASE, 128), 7415, 0.5),
    (switch(T5_LARGE, 128), 26_300, 50),
  ],
  ids=["t5_base", "switch_base_8", "switch_base_128", "switch_large_128"],
)
def test_parameters_are_those_of_the_published_models(config, millions, digit):
  assert parameter_count(config) / 1e6 == pytest.approx(millions, abs=digit)


@pytest.mark.parametrize(("config", "giga"), [(T5_BASE, 124.6), (T5_LARGE, 424.9)])
def test_forward_flops_are_those_of_table_9_at_512_and_114_tokens(config, giga):
  assert forward_flops_per_sequence(config, 512, 114) / 1e9 == pytest.approx(giga, abs=0.05)
  sparse = switch(config, 64)
  assert forward_flops_per_sequence(sparse, 512, 114) == forward_flops_per_sequence(
    config, 512, 114
  )


def test_a_token_pays_for_the_experts_it_visits():
  flops = lambda **changes: forward_flops_per_sequence(  # noqa: E731
    dataclasses.replace(switch(T5_BASE, 64), **changes), 512, 0
  )
  base, expert = flops(), 2.0 * 512 * 6 * 2 * 768 * T5_BASE.d_ff  # of six sparse encoder layers
  assert flops(encoder_router=RouterConfig(num_selected_experts=3)) == base + 2 * expert
  choice = RouterConfig(kind="expert_choice", experts_per_token=1.5)
  assert flops(encoder_router=choice) == base + expert / 2
  assert flops(num_shared_experts=2) == base + 2 * expert
  fine = {"expert_d_ff": T5_BASE.d_ff // 2, "num_shared_experts": 1}
  assert flops(encoder_router=RouterConfig(num_selected_experts=2), **fine) == base + expert / 2
  # In attention an expert has two projections in place of three; its feed-forward layer is dense.
  projection = 2.0 * 512 * 6 * 768 * 768
  assert flops(sparse_sublayers="attention") == base - projection
  assert flops(sparse_sublayers="both") == base - projection
