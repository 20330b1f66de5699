# SPDX-License-Identifier: Apache-2.0
"""Which layouts are looked at, and in which order."""

from __future__ import annotations

import dataclasses
import time

import pytest
from planned import SWITCH_BASE, SWITCH_C, arrays, step

from switch_t5.planning.memory import memory
from switch_t5.planning.search import candidate, divides, search
from switch_t5.planning.topology import parse
from switch_t5.sharding.mesh import MeshShape


def test_every_layout_found_divides_and_has_all_devices():
  planned, state, topology = step(), arrays(), parse("v5p:4x4x4")
  found = search(planned, state, topology)
  assert len({(c.mesh, c.parameter_sharding, c.remat) for c in found}) == len(found) > 50
  for c in found:
    laid_out = planned.laid_out(
      mesh=MeshShape(*c.mesh),
      parameter_sharding=c.parameter_sharding,
      microbatches=c.microbatches,
      remat=c.remat,
    )
    assert divides(laid_out, state, topology)
    assert candidate(laid_out, state, topology) == c
  assert not [c for c in found if c.mesh[2] > 4]  # twelve heads
  assert not [c for c in found if c.mesh[0] == 1 and c.parameter_sharding == "fsdp"]


def test_what_fits_comes_first_and_the_fastest_of_it():
  found = search(step(), arrays(), parse("v5e:8x8"))
  fitting = [c for c in found if c.fits]
  assert fitting and found[: len(fitting)] == fitting
  assert [c.step for c in fitting] == sorted(c.step for c in fitting)
  others = [c.memory for c in found if not c.fits]
  assert others == sorted(others)


def test_microbatches_are_the_fewest_that_fit():
  planned, state, topology = step(), arrays(), parse("v5e:8x8")
  limit = topology.chip.usable_memory
  several = [c for c in search(planned, state, topology) if c.fits and c.microbatches > 1]
  assert several
  for c in several:
    half = planned.laid_out(
      mesh=MeshShape(*c.mesh),
      parameter_sharding=c.parameter_sharding,
      microbatches=c.microbatches // 2,
      remat=c.remat,
    )
    assert not memory(half, state, limit).fits


def test_only_data_crosses_slices_and_a_dense_model_has_no_expert_axis():
  two_slices = search(step(), arrays(), parse("v5p:2x2x4*2"))
  assert two_slices and not [c for c in two_slices if c.mesh[0] % 2]
  nodes = search(step(), arrays(), parse("h100:16"))
  assert nodes and max(c.mesh[1] * c.mesh[2] for c in nodes) <= 8
  dense = dataclasses.replace(
    SWITCH_BASE,
    num_experts=0,
    num_encoder_sparse_layers=0,
    num_decoder_sparse_layers=0,
    sequences_per_group=None,
  )
  assert {c.mesh[1] for c in search(step(dense), arrays(dense), parse("v5p:2x2x4"))} == {1}


def test_two_thousand_devices_are_searched_in_seconds():
  state, topology = arrays(SWITCH_C), parse("v5p:8x16x16")
  start = time.process_time()
  found = search(step(SWITCH_C, rows=8192), state, topology)
  assert time.process_time() - start < 20
  # 1.6 T parameters, 4 bytes for each and for its gradient: one expert of each layer on a device.
  assert found[0].fits and found[0].mesh[1] >= 512


def test_nothing_is_found_where_nothing_divides():
  assert search(step(rows=6), arrays(), parse("v5p:4x4x4")) == []


@pytest.mark.smoke
def test_inference_has_no_microbatches_and_no_rematerialisation():
  planned = dataclasses.replace(step(rows=512), kind="infer")
  found = search(planned, arrays(), parse("v5p:2x2x4"))
  assert {(c.microbatches, c.remat, c.parameter_sharding) for c in found} == {
    (1, "none", "replicated")
  }
