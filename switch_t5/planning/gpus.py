# SPDX-License-Identifier: Apache-2.0
"""GPUs as XLA wants them described to compile for ones that are not there."""

from __future__ import annotations

from typing import NamedTuple

from switch_t5.planning.chips import Chip


class _Gpu(NamedTuple):
  """What CUDA reports of a device; clocks in GHz, sizes in bytes."""

  name: str
  compute_capability: int
  multiprocessors: int
  float32_units: int  # of a multiprocessor
  shared_memory: int  # of a multiprocessor
  l2_cache: int
  clock: float


_GPUS = {
  "a100": _Gpu("NVIDIA A100-SXM4-80GB", 8, 108, 64, 167_936, 41_943_040, 1.41),
  "h100": _Gpu("NVIDIA H100 80GB HBM3", 9, 132, 128, 233_472, 52_428_800, 1.98),
  "h200": _Gpu("NVIDIA H200", 9, 132, 128, 233_472, 52_428_800, 1.98),
  "b200": _Gpu("NVIDIA B200", 10, 148, 128, 233_472, 132_644_864, 1.965),
}


def target_config(chip: Chip) -> str:
  """Returns XLA's GpuTargetConfigProto of `chip`, as text."""
  gpu = _GPUS[chip.name]
  accelerated = "ACCELERATED_FEATURES" if gpu.compute_capability >= 9 else "NONE"
  return f"""
platform_name: "CUDA"
device_description_str: "{gpu.name}"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 8 }}
gpu_device_info {{
  name: "{gpu.name}"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability {{ major: {gpu.compute_capability} feature_extension: {accelerated} }}
  core_count: {gpu.multiprocessors}
  fpus_per_core: {gpu.float32_units}
  clock_rate_ghz: {gpu.clock}
  l2_cache_size: {gpu.l2_cache}
  device_memory_size: {chip.memory_bytes}
  memory_bandwidth: {int(chip.memory_bandwidth)}
  shared_memory_per_core: {gpu.shared_memory}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {gpu.shared_memory - 1024}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  device_address_bits: 64
  driver_version: "13.0.0"
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}}
"""
