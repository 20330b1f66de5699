# SPDX-License-Identifier: Apache-2.0
"""What one device of each kind can do at its peak, from public pages, for plans.

A device is what JAX calls one: half a chip of v2, v3 and tpu7x, a whole one of the other TPUs, a GPU.
The numbers are limits: no program reaches all of them. A network's is what one device can send over
all of its links together; a collective over one axis of a torus gets a third or a half of it.
"""

from __future__ import annotations

from typing import NamedTuple

_GIB = 2**30
# XLA multiplies float32 in one pass of bfloat16 on TPU, unless a higher precision is asked for.
_ONE_PASS = ("bfloat16", "float32")
# Of a GPU's memory JAX takes three quarters for arrays, unless XLA_CLIENT_MEM_FRACTION says otherwise.
_GPU_FRACTION = 0.75
_TPU_PAGES = "docs.cloud.google.com/tpu/docs/"


class Chip(NamedTuple):
  """One device of a kind.

  Attributes:
    name: as a topology is spelt, e.g. "v5p".
    platform: "tpu", "gpu" or "cpu".
    peak: FLOP/s of matmuls by the type of their operands, at JAX's default precision: of float32 one
      pass of bfloat16 on TPU, TF32 on GPU.
    memory_bytes: of the device.
    usable_memory: what is left of it for a program: as XLA's compiler for the TPU says, or what JAX
      takes of a GPU by default.
    memory_bandwidth: bytes/s.
    fast_bandwidth: bytes/s that it can send within a slice or an NVLink domain.
    slow_bandwidth: bytes/s that it can send to other slices or nodes.
    devices_per_host: on one machine.
    domain: devices within the fast network; None: a whole slice.
    devices_per_chip: how many JAX sees in one chip.
    dimensions: of a slice's shape; 1: a number of devices.
    largest_slice: chips in the largest slice; None: any number.
    source: where the numbers are from.
  """

  name: str
  platform: str
  peak: dict[str, float]
  memory_bytes: int
  usable_memory: int
  memory_bandwidth: float
  fast_bandwidth: float
  slow_bandwidth: float
  devices_per_host: int
  domain: int | None
  devices_per_chip: int
  dimensions: int
  largest_slice: int | None
  source: str


def _tpu(
  name: str,
  *,
  peak: float,
  memory: int,
  usable: float,
  memory_bandwidth: float,
  ici: float,
  dcn: float,
  dimensions: int,
  largest_slice: int,
  devices_per_chip: int = 1,
  source: str,
) -> Chip:
  """A kind of TPU, from numbers of a chip; `memory` and `usable` are GiB of a device."""
  return Chip(
    name,
    "tpu",
    dict.fromkeys(_ONE_PASS, peak / devices_per_chip),
    memory * _GIB,
    int(usable * _GIB),
    memory_bandwidth / devices_per_chip,
    ici / devices_per_chip,
    dcn / devices_per_chip,
    4 * devices_per_chip,
    None,
    devices_per_chip,
    dimensions,
    largest_slice,
    source,
  )


def _gpu(
  name: str,
  *,
  bfloat16: float,
  tf32: float,
  memory_bytes: int,
  memory_bandwidth: float,
  nvlink: float,
  network: float,
  source: str,
) -> Chip:
  """A kind of GPU in nodes of eight, each with a network card of its own."""
  return Chip(
    name,
    "gpu",
    {"bfloat16": bfloat16, "float32": tf32},
    memory_bytes,
    int(_GPU_FRACTION * memory_bytes),
    memory_bandwidth,
    nvlink,
    network,
    8,
    8,
    1,
    1,
    None,
    source,
  )


_ALL = (
  _tpu(
    "v2",
    peak=45e12,
    memory=8,
    usable=7.48,
    memory_bandwidth=700e9,
    ici=4 * 62e9,
    dcn=3.125e9,
    dimensions=2,
    largest_slice=256,
    devices_per_chip=2,
    source=f"{_TPU_PAGES}v2; links: CACM 63(7), 2020; between slices: assumed, 25 Gbit/s a chip",
  ),
  _tpu(
    "v3",
    peak=123e12,
    memory=16,
    usable=15.48,
    memory_bandwidth=900e9,
    ici=4 * 82e9,
    dcn=3.125e9,
    dimensions=2,
    largest_slice=1024,
    devices_per_chip=2,
    source=f"{_TPU_PAGES}v3; links: CACM 63(7), 2020; between slices: assumed, 25 Gbit/s a chip",
  ),
  _tpu(
    "v4",
    peak=275e12,
    memory=32,
    usable=30.75,
    memory_bandwidth=1200e9,
    ici=6 * 50e9,
    dcn=6.25e9,
    dimensions=3,
    largest_slice=4096,
    source=f"{_TPU_PAGES}v4; links: arXiv 2304.01433; between slices: assumed, 50 Gbit/s a chip",
  ),
  _tpu(
    "v5e",
    peak=197e12,
    memory=16,
    usable=15.75,
    memory_bandwidth=819e9,
    ici=200e9,
    dcn=3.125e9,
    dimensions=2,
    largest_slice=256,
    source=f"{_TPU_PAGES}v5e",
  ),
  _tpu(
    "v5p",
    peak=459e12,
    memory=96,
    usable=95.73,
    memory_bandwidth=2765e9,
    ici=600e9,
    dcn=6.25e9,
    dimensions=3,
    largest_slice=8960,
    source=f"{_TPU_PAGES}v5p",
  ),
  _tpu(
    "v6e",
    peak=918e12,
    memory=32,
    usable=31.24,
    memory_bandwidth=1600e9,
    ici=400e9,
    dcn=12.5e9,
    dimensions=2,
    largest_slice=256,
    source=f"{_TPU_PAGES}v6e",
  ),
  _tpu(
    "tpu7x",
    peak=2307e12,
    memory=96,
    usable=94.74,
    memory_bandwidth=7380e9,
    ici=600e9,
    dcn=12.5e9,
    dimensions=3,
    largest_slice=9216,
    devices_per_chip=2,
    source=f"{_TPU_PAGES}tpu7x; between slices: assumed, 100 Gbit/s a chip",
  ),
  _gpu(
    "a100",
    bfloat16=312e12,
    tf32=156e12,
    memory_bytes=85_100_068_864,
    memory_bandwidth=2.039e12,
    nvlink=300e9,
    network=25e9,
    source="NVIDIA's data sheets of A100 80GB SXM and DGX A100",
  ),
  _gpu(
    "h100",
    bfloat16=989e12,
    tf32=494e12,
    memory_bytes=85_017_493_504,
    memory_bandwidth=3.35e12,
    nvlink=450e9,
    network=50e9,
    source="NVIDIA's data sheets of H100 SXM and DGX H100",
  ),
  _gpu(
    "h200",
    bfloat16=989e12,
    tf32=494e12,
    memory_bytes=150_754_820_096,
    memory_bandwidth=4.8e12,
    nvlink=450e9,
    network=50e9,
    source="NVIDIA's data sheets of H200 SXM and DGX H200",
  ),
  _gpu(
    "b200",
    bfloat16=2250e12,
    tf32=1100e12,
    memory_bytes=191_514_411_008,
    memory_bandwidth=7.7e12,
    nvlink=900e9,
    network=50e9,
    source="NVIDIA's data sheets of HGX B200 and DGX B200",
  ),
  Chip(
    "cpu",
    "cpu",
    {"bfloat16": 5e10, "float32": 1e11},
    16 * _GIB,
    16 * _GIB,
    2e10,
    1.25e9,
    1.25e9,
    1,
    None,
    1,
    1,
    None,
    "nominal, of no product: two cores with 16 GiB and 10 Gbit/s, to plan emulated devices",
  ),
)

CHIPS: dict[str, Chip] = {chip.name: chip for chip in _ALL}

# By what JAX calls a device; what sounds alike (H100 PCIe, H200 NVL) has other peaks.
_DEVICE_KINDS = {
  "TPU v2": "v2",
  "TPU v3": "v3",
  "TPU v4": "v4",
  "TPU v5 lite": "v5e",
  "TPU v5e": "v5e",
  "TPU v5": "v5p",
  "TPU v5p": "v5p",
  "TPU v6 lite": "v6e",
  "TPU v6e": "v6e",
  "TPU7x": "tpu7x",
  "NVIDIA A100-SXM4-80GB": "a100",
  "NVIDIA A100-SXM4-40GB": "a100",
  "NVIDIA H100 80GB HBM3": "h100",
  "NVIDIA H200": "h200",
  "NVIDIA B200": "b200",
}


def peak_of(device_kind: str, dtype: str) -> float | None:
  """Returns the peak FLOP/s of one device, or None where none is known.

  Args:
    device_kind: `jax.Device.device_kind`; a CPU's says nothing.
    dtype: of the operands of matmuls.
  """
  name = _DEVICE_KINDS.get(device_kind)
  return None if name is None else CHIPS[name].peak.get(dtype)
