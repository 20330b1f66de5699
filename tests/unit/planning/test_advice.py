# SPDX-License-Identifier: Apache-2.0
"""What a plan's sentences say, and that their numbers hold."""

from __future__ import annotations

import dataclasses
import re

import pytest
from planned import SWITCH_BASE, SWITCH_C, arrays, step

from switch_t5.planning.advice import advice
from switch_t5.planning.estimate import dropped, estimate
from switch_t5.planning.memory import memory
from switch_t5.planning.plan import Collective
from switch_t5.planning.topology import parse


def said(planned, topology, **changes) -> list[str]:
  state, place = arrays(planned.model), parse(topology)
  plan = dataclasses.replace(estimate(planned, state, place), **changes)
  return list(advice(plan, planned, state, place))


ROOMY = dataclasses.replace(SWITCH_BASE, decoder_sequences_per_group=32)


def test_a_plan_without_faults_gets_no_advice():
  assert said(step(ROOMY, rows=2048), "v5p:4x4x4") == []


def test_what_does_not_fit_is_told_by_how_much_and_what_makes_it_fit():
  planned = step(ROOMY, rows=2048)
  verdict, *remedies = said(planned, "v5e:8x8")
  need, has, over = map(float, re.findall(r"([\d.]+) GB", verdict))
  assert verdict.startswith("It does not fit") and need - has == pytest.approx(over, abs=0.11)
  assert "ModelConfig.remat = 'full'" in " ".join(remedies)
  state = arrays(ROOMY)
  recomputed = memory(planned.laid_out(remat="full"), state, 1).total / 1e9
  (full,) = [sentence for sentence in remedies if "remat = 'full'" in sentence]
  assert f"about {recomputed:.1f} GB, which fits" in full


def test_microbatches_that_fit_are_the_ones_named():
  sentences = said(step(SWITCH_BASE, rows=2048), "v5e:8x8")
  (sentence,) = [s for s in sentences if "NUM_MICROBATCHES" in s]
  assert sentence.startswith("NUM_MICROBATCHES = ") and sentence.endswith("which fits.")


def test_a_state_that_no_layout_holds_needs_more_devices():
  sentences = said(step(SWITCH_C, (1, 64, 1), rows=1024), "v5p:4x4x4")
  (last,) = [s for s in sentences if "No layout" in s]
  more = int(re.search(r"About (\d+) devices", last)[1])
  # Parameters and gradients alone are 12.6 TB.
  assert 12.6e12 / parse("v5p:4x4x4").chip.usable_memory < more < 300


def test_several_changes_are_named_together_where_none_is_enough_alone():
  model = dataclasses.replace(ROOMY, num_encoder_layers=48, num_decoder_layers=48)
  model = dataclasses.replace(model, num_encoder_sparse_layers=24, num_decoder_sparse_layers=24)
  sentences = said(step(model, (64, 1, 1), rows=2048), "v5e:8x8")
  assert not [s for s in sentences[1:] if s.endswith("which fits.") and " with " not in s]
  assert [s for s in sentences if " with " in s and s.endswith("which fits.")]


def test_small_groups_are_told_what_size_drops_less():
  planned = step(SWITCH_BASE, rows=2048)
  (sentence,) = [s for s in said(planned, "v5p:4x4x4") if "decoder" in s]
  sequences = int(re.search(r"decoder_sequences_per_group = (\d+)", sentence)[1])
  larger = dataclasses.replace(planned.model, decoder_sequences_per_group=sequences)
  assert dropped(dataclasses.replace(planned, model=larger))["decoder"] < 0.01
  assert f"drops {100 * dropped(planned)['decoder']:.1f} %" in sentence


def test_few_tokens_for_many_experts_are_shown_the_way_without_capacity():
  """Switch-C: 2,048 experts have two places each for 456 targets: 4,096 rows, nine times as many."""
  sentences = said(step(SWITCH_C, (1, 512, 2), rows=2048), "v5p:8x8x16")
  (sentence,) = [s for s in sentences if "In the decoder a device sends" in s]
  assert "sends 4096 rows for 456 choices, 9.0 times as many" in sentence
  assert "train_capacity_factor = None" in sentence
  dropless = dataclasses.replace(SWITCH_C, train_capacity_factor=None)
  assert not [s for s in said(step(dropless, (1, 512, 2)), "v5p:8x8x16") if "times as many" in s]


def test_a_slow_network_is_named_with_what_goes_over_it():
  sentences = said(step(ROOMY, (2, 8, 1), rows=512), "h100:16")
  (sentence,) = [s for s in sentences if "slow network" in s]
  assert "gradients of experts" in sentence and "over data" in sentence


def test_what_the_program_sends_beyond_the_bound_is_said_in_bytes():
  planned = step(ROOMY, (2, 32, 1))
  needed = estimate(planned, arrays(ROOMY), parse("v5p:4x4x4")).bounds
  added = Collective("all-gather", ("expert",), "forward", "encoder", 6, 10**7, what="all-gather.7")
  assert said(planned, "v5p:4x4x4", collectives=needed) == []
  (sentence,) = said(planned, "v5p:4x4x4", collectives=(*needed, added))
  assert "Over expert" in sentence and "1.86 GB more than the layout needs" in sentence
