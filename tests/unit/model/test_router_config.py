# SPDX-License-Identifier: Apache-2.0
"""What a router's configuration refuses, and with which words."""

from __future__ import annotations

import pytest

from switch_t5.errors import ConfigError
from switch_t5.model.config import ModelConfig
from switch_t5.model.router_config import RouterConfig


def model(**changes) -> ModelConfig:
  sizes = {"vocab_size": 128, "d_model": 16, "d_ff": 32, "d_kv": 4, "num_heads": 4}
  layers = {"num_encoder_layers": 2, "num_decoder_layers": 2, "sequences_per_group": 2}
  sparse = {"num_experts": 4, "num_encoder_sparse_layers": 1, "num_decoder_sparse_layers": 1}
  return ModelConfig(**sizes | layers | sparse | changes)


@pytest.mark.parametrize(
  ("option", "value"),
  [
    ("kind", "top2"),
    ("scores", "tanh"),
    ("second_expert_policy", "sometimes"),
    ("exploration", "noise"),
    ("balance_scope", "pod"),
    ("num_selected_experts", 0),
    ("num_selected_experts", 2.0),
    ("num_selected_experts", True),
    ("no_token_left_behind", 0),
    ("renormalize_gates", 1),
    ("jitter_noise", 1.0),
    ("jitter_noise", float("nan")),
    ("input_dropout_rate", -0.1),
    ("second_expert_threshold", 0.0),
    ("experts_per_token", 0),
    ("experts_per_token", "2"),
    ("bias_update_rate", -1e-3),
    ("bias_update_rate", float("inf")),
  ],
)
def test_a_value_that_is_none_is_refused_by_name(option, value):
  with pytest.raises(ConfigError, match=option):
    RouterConfig(**{option: value})


@pytest.mark.parametrize(
  ("options", "says"),
  [
    ({"kind": "hash", "num_selected_experts": 2}, "'hash' has no option num_selected_experts"),
    ({"kind": "random", "jitter_noise": 0.0}, "'random' has no option jitter_noise"),
    ({"kind": "expert_choice", "batch_prioritized": True}, "has no option batch_prioritized"),
    ({"kind": "expert_choice", "balance_scope": "global"}, "has no option balance_scope"),
    ({"experts_per_token": 1.0}, "'top_k' has no option experts_per_token"),
    ({"renormalize_gates": True}, "the router would learn nothing"),
    ({"second_expert_policy": "random"}, "the second of two choices"),
    ({"second_expert_policy": "none", "num_selected_experts": 3}, "the second of two choices"),
    ({"no_token_left_behind": 4, "num_selected_experts": 2}, "choose one expert"),
    ({"bias_update_rate": 1e-3, "exploration": "sample"}, "does not look at the bias"),
    ({"scores": "sigmoid", "exploration": "sample"}, "sampled from a softmax"),
    ({"exploration": "argmax", "jitter_noise": 0.1}, "jitter_noise is of exploration 'jitter'"),
    ({"input_dropout_rate": 0.2}, "is of exploration 'input_dropout'"),
  ],
)
def test_options_that_do_not_go_together_are_refused_with_the_reason(options, says):
  with pytest.raises(ConfigError) as error:
    RouterConfig(**options)
  assert says in str(error.value)
  assert "remedy" in str(error.value)


def test_more_choices_than_experts_are_refused():
  with pytest.raises(ConfigError, match=r"num_selected_experts 5, 4 experts") as error:
    model(decoder_router=RouterConfig(num_selected_experts=5))
  assert "NUM_EXPERTS of 5" in str(error.value)
  with pytest.raises(ConfigError, match="no_token_left_behind 6"):
    model(encoder_router=RouterConfig(no_token_left_behind=6))
  with pytest.raises(ConfigError, match=r"experts_per_token 4\.5"):
    model(encoder_router=RouterConfig(kind="expert_choice", experts_per_token=4.5))


@pytest.mark.parametrize("options", [{"kind": "expert_choice"}, {"batch_prioritized": True}])
def test_what_looks_ahead_is_refused_in_a_decoder_with_the_reason(options):
  model(encoder_router=RouterConfig(**options))
  with pytest.raises(ConfigError, match="must not depend on later ones") as error:
    model(decoder_router=RouterConfig(**options))
  assert "encoder/RouterConfig" in str(error.value)
  dense_decoder = model(decoder_router=RouterConfig(**options), num_decoder_sparse_layers=0)
  assert dense_decoder.sparse_stacks == ["encoder"]


@pytest.mark.parametrize("options", [{"batch_prioritized": True}, {"no_token_left_behind": 4}])
def test_options_about_places_are_refused_without_capacity(options):
  with pytest.raises(ConfigError, match="without capacity all do"):
    model(encoder_router=RouterConfig(**options), train_capacity_factor=None)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), "1.25"])
def test_a_capacity_factor_that_is_none_is_refused(factor):
  with pytest.raises(ConfigError, match="train_capacity_factor") as error:
    model(train_capacity_factor=factor)
  assert "None for dropless" in str(error.value)
  assert model(train_capacity_factor=None).train_capacity_factor is None


@pytest.mark.parametrize("option", [{"expert_d_ff": 16}, {"num_shared_experts": 1}])
def test_options_of_feed_forward_experts_need_some(option):
  model(**option)
  for without in (
    {"sparse_sublayers": "attention"},
    {"num_experts": 0, "num_encoder_sparse_layers": 0, "num_decoder_sparse_layers": 0},
  ):
    with pytest.raises(ConfigError, match=next(iter(option))):
      model(**option, **without)
