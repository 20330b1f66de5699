# SPDX-License-Identifier: Apache-2.0
"""Devices that are not there: "v5p:8x8x8", two slices "v5e:16x16*2", GPUs "h100:64", "cpu:64".

What XLA can compile for is described to it; nothing runs on such devices. CPU devices are emulated,
which must be asked for before JAX starts.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from switch_t5.errors import ConfigError, suggest
from switch_t5.planning.chips import CHIPS, Chip
from switch_t5.planning.gpus import target_config

if TYPE_CHECKING:
  import jax

_SPELLING = "CHIP:SHAPE, several TPU slices as CHIP:SHAPE*SLICES: v5p:8x8x8, v5e:16x16*2, h100:64"
_TOPOLOGY = re.compile(r"(\w+):(\d+(?:x\d+)*)(?:\*(\d+))?", re.ASCII)
# Google Cloud's names of accelerators: chips of v5e and v6e, TensorCores of the others.
_ACCELERATOR = re.compile(r"(\w+)-(\d+)", re.ASCII)
_RENAMED = {"v5litepod": "v5e", "v5lite": "v5e", "v7x": "tpu7x"}
_SINGLE_CORE = ("v5e", "v6e")
_LIBTPU = {
  "TPU_SKIP_MDS_QUERY": "1",  # no cloud is asked which machine this is
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",  # two plans at once
  # Without these it complains that this machine is no TPU's; any of them will do.
  "TPU_ACCELERATOR_TYPE": "v5p-8",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_STDERR_LOG_LEVEL": "3",
  "TPU_MIN_LOG_LEVEL": "3",
  "TPU_LOG_DIR": "disabled",
}


class Topology(NamedTuple):
  """Devices of one kind.

  Attributes:
    text: as it was asked for.
    chip: what each device can do.
    shape: chips of a slice; of GPUs and CPUs how many devices there are.
    devices: of all slices, as JAX counts them.
    slices: with a slow network between them; of GPUs: nodes.
  """

  text: str
  chip: Chip
  shape: tuple[int, ...]
  devices: int
  slices: int


def parse(text: str) -> Topology:
  """Reads a topology.

  Raises:
    ConfigError: if the kind is unknown, or no such devices can be had.
  """
  parts = _TOPOLOGY.fullmatch(text)
  chip = _chip(parts[1]) if parts else None
  if parts is None or chip is None:
    raise ConfigError(
      "The topology cannot be read." if parts is None else "The topology is of an unknown chip.",
      value=text,
      rule=_SPELLING,
      remedy=_respelt(text) or _shaped(text) or suggest(text.partition(":")[0], CHIPS),
    )
  shape = tuple(map(int, parts[2].split("x")))
  slices = int(parts[3] or 1)
  if min(*shape, slices) < 1:
    raise ConfigError(
      "A topology has no devices.",
      value=text,
      rule="all numbers are positive",
      remedy=f"e.g. {_spelt(chip, 64)}",
    )
  if chip.platform == "tpu":
    return _tpu(text, chip, shape, slices)
  return _others(text, chip, shape, parts[3] is None)


def _tpu(text: str, chip: Chip, shape: tuple[int, ...], slices: int) -> Topology:
  """Checks what XLA would accept though no such slice exists."""
  chips = math.prod(shape)
  if len(shape) != chip.dimensions:
    raise ConfigError(
      f"A slice of {chip.name} has {chip.dimensions} dimensions.",
      value=text,
      rule=_SPELLING,
      remedy=f"e.g. {_spelt(chip, chips)}",
    )
  if chip.largest_slice is not None and chips > chip.largest_slice:
    raise ConfigError(
      f"A slice of {chip.name} is not that large.",
      value=f"{text}: {chips} chips",
      rule=f"at most {chip.largest_slice} chips share the fast network",
      remedy=f"Plan several slices: {chip.name}:SHAPE*SLICES.",
    )
  return Topology(text, chip, shape, chips * chip.devices_per_chip * slices, slices)


def _others(text: str, chip: Chip, shape: tuple[int, ...], whole: bool) -> Topology:
  """GPUs and CPUs, which are only counted."""
  if len(shape) != 1 or not whole:
    raise ConfigError(
      f"A topology of {chip.name} is a number of devices.",
      value=text,
      rule=_SPELLING,
      remedy=f"e.g. {chip.name}:{math.prod(shape)}; GPUs are in nodes of eight",
    )
  (devices,) = shape
  domain = chip.domain or devices
  if devices > domain and devices % domain:
    raise ConfigError(
      "The GPUs do not fill their nodes.",
      value=text,
      rule=f"up to {domain} are in one node, more are whole nodes of {domain}",
      remedy=f"e.g. {chip.name}:{math.ceil(devices / domain) * domain}",
    )
  return Topology(text, chip, shape, devices, max(1, devices // domain))


def prepare(topology: Topology) -> None:
  """Sets what JAX reads before it starts: no device of this machine is used but the CPU.

  CPU devices are emulated by whoever starts JAX.

  Raises:
    ConfigError: if what compiles for such devices is not installed.
  """
  if topology.chip.platform == "cpu":
    return
  _require(topology)
  for name, value in _LIBTPU.items():
    os.environ.setdefault(name, value)
  os.environ["JAX_PLATFORMS"] = "cpu"
  import jax

  jax.config.update("jax_platforms", "cpu")


def _require(topology: Topology) -> None:
  """Looks for the compiler."""
  if topology.chip.platform == "tpu" and importlib.util.find_spec("libtpu") is None:
    raise ConfigError(
      "The compiler for TPUs is not installed.",
      value=topology.text,
      rule="a plan for TPUs needs libtpu, on any machine",
      remedy="pip install 'switch_t5[plan]'",
    )
  if topology.chip.platform == "gpu" and importlib.util.find_spec("jax_cuda12_plugin") is None:
    import jaxlib

    version = jaxlib.__version__
    raise ConfigError(
      "The compiler for GPUs is not installed.",
      value=topology.text,
      rule="a plan for GPUs needs JAX's plug-in for them, but no GPU and no CUDA",
      remedy=f"pip install --no-deps jax-cuda12-plugin=={version} jax-cuda12-pjrt=={version}",
    )


def devices(topology: Topology) -> list[jax.Device]:
  """Returns the devices, in JAX's order: planned ones, or those of this machine's CPU.

  Raises:
    ConfigError: if XLA knows no such topology, or too few CPU devices are emulated.
  """
  import jax
  from jax.experimental import topologies

  if topology.chip.platform == "cpu":
    found = jax.devices("cpu")
    if len(found) < topology.devices:
      raise ConfigError(
        f"{topology.devices} CPU devices are planned and JAX started with {len(found)}.",
        value=topology.text,
        rule="CPU devices are emulated from the start",
        remedy=f"--emulate_devices={topology.devices}",
      )
    return found[: topology.devices]
  try:
    if topology.chip.platform == "tpu":
      described = topologies.get_topology_desc(platform="tpu", **_tpu_arguments(topology))
    else:
      described = topologies.get_topology_desc(platform="cuda", **_gpu_arguments(topology))
  except RuntimeError as error:
    raise ConfigError(
      "XLA knows no such topology.",
      value=topology.text,
      rule=_translated(str(error)),
      remedy=f"e.g. {_spelt(topology.chip, math.prod(topology.shape))}",
    ) from error
  return list(described.devices)


def _tpu_arguments(topology: Topology) -> dict[str, Any]:
  shape = "x".join(map(str, topology.shape))
  arguments: dict[str, Any] = {"topology_name": f"{topology.chip.name}:{shape}"}
  if topology.slices > 1:
    arguments["num_slices"] = topology.slices
  if topology.chip.name == "v4":  # as JAX runs it: one device a chip
    arguments["chip_config_name"] = "megacore"
  return arguments


def _gpu_arguments(topology: Topology) -> dict[str, Any]:
  """Nodes are slices of one host each: partitions, hosts of each, devices of each."""
  nodes, each = topology.slices, topology.devices // topology.slices
  return {
    "topology_name": topology.text,
    "topology": f"{nodes}x1x{each}",
    "target_config": target_config(topology.chip),
  }


def _translated(message: str) -> str:
  """XLA's reason in a line."""
  if bounds := re.search(r'chips_per_host_bounds "([\dx]+)"', message):
    return f"a slice is made of hosts of {bounds[1].removesuffix('x1')} chips"
  return message.splitlines()[0][:200]


def _chip(name: str) -> Chip | None:
  """Returns the chip of that name, ours or Google Cloud's."""
  return CHIPS.get(_RENAMED.get(name, name))


def _respelt(text: str) -> str | None:
  """Says how we spell an accelerator of Google Cloud, e.g. v5litepod-16."""
  parts = _ACCELERATOR.fullmatch(text)
  chip = _chip(parts[1]) if parts else None
  if parts is None or chip is None or chip.platform != "tpu":
    return None
  chips = int(parts[2]) if chip.name in _SINGLE_CORE else int(parts[2]) // 2
  return f"{text} is {_spelt(chip, max(1, chips))}, or another shape of {chips} chips."


def _shaped(text: str) -> str | None:
  """Says how devices of a known chip are written."""
  chip = _chip(text.partition(":")[0])
  return None if chip is None else f"e.g. {_spelt(chip, 64)}"


def _spelt(chip: Chip, chips: int) -> str:
  """Returns the topology of `chips` whose shape is nearest to a cube, or a number of devices."""
  shape: list[int] = []
  for dimension in range(chip.dimensions, 0, -1):
    root = chips ** (1 / dimension) + 1e-9
    shape.append(max(n for n in range(1, int(root) + 1) if chips % n == 0))
    chips //= shape[-1]
  shape.sort(key=lambda n: (n == 1, n))  # 2x2x1, as such slices are written
  return f"{chip.name}:{'x'.join(map(str, shape))}"
