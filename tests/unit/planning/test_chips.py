# SPDX-License-Identifier: Apache-2.0
"""The table of chips: units that a slip would show in."""

from __future__ import annotations

import pytest

from switch_t5.planning.chips import CHIPS, peak_of


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_networks_are_slower_the_farther_they_reach(chip):
  assert chip.memory_bandwidth > chip.fast_bandwidth >= chip.slow_bandwidth > 1e9


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_a_program_gets_most_of_the_memory_and_not_more(chip):
  assert 0.7 * chip.memory_bytes < chip.usable_memory <= chip.memory_bytes


def test_numbers_of_a_chip_are_shared_by_its_devices():
  """A pod of v3 has 126 petaflops on 1,024 chips; one of v5e 6.4 Tbit/s on 256."""
  v3, v5e = CHIPS["v3"], CHIPS["v5e"]
  assert 2048 * v3.peak["bfloat16"] == pytest.approx(126e15, rel=0.01)
  assert 256 * v5e.slow_bandwidth * 8 == pytest.approx(6.4e12)


def test_nodes_of_gpus_are_those_of_the_data_sheets():
  """A DGX H100 has 640 GB and 7.2 TB/s of NVLink both ways, a DGX B200 1,440 GB and 14.4 TB/s."""
  for name, memory, links in (("h100", 640e9, 7.2e12), ("b200", 1440e9, 14.4e12)):
    chip = CHIPS[name]
    assert 8 * chip.memory_bytes == pytest.approx(memory, rel=0.07)
    assert 8 * 2 * chip.fast_bandwidth == pytest.approx(links)


@pytest.mark.parametrize(
  ("device_kind", "dtype", "peak"),
  [
    ("TPU v5 lite", "bfloat16", 197e12),
    ("TPU v3", "bfloat16", 61.5e12),  # half a chip
    ("NVIDIA H100 80GB HBM3", "float32", 494e12),
    ("NVIDIA H100 PCIe", "bfloat16", None),
    ("cpu", "float32", None),
  ],
)
def test_a_device_has_the_peak_of_its_kind_and_no_other(device_kind, dtype, peak):
  assert peak_of(device_kind, dtype) == peak
