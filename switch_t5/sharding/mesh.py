# SPDX-License-Identifier: Apache-2.0
"""The device mesh: axes `data`, `expert`, `model`, in this order.

Tokens are split over data and expert, experts over expert, heads, d_ff and the vocabulary over
model. The five layouts of the paper (section 5) are shapes of this one mesh: data (D,1,1), model
(1,1,m), data and model (D,1,m), expert and data (D,e,1), expert, model and data (D,e,m).

Where devices come in several slices with a slow network between them, only `data` crosses it: each
slice has whole rows of experts and of model shards, and what goes between slices is gradients.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental.mesh_utils import create_device_mesh, create_hybrid_device_mesh
from jax.sharding import AxisType, Mesh

from switch_t5.errors import MeshError

DATA, EXPERT, MODEL = "data", "expert", "model"
AXES = (DATA, EXPERT, MODEL)
# Named, as the default differs between releases, and explicit axes would type every array.
_AXIS_TYPES = (AxisType.Auto,) * len(AXES)


class MeshShape(NamedTuple):
  """Devices along each axis."""

  data: int = 1
  expert: int = 1
  model: int = 1

  @classmethod
  def parse(cls, shape: Sequence[int]) -> MeshShape:
    """Checks that `shape` is three positive whole numbers. Raises MeshError."""
    rule = "MESH_SHAPE is three positive whole numbers: (data, expert, model)"
    if not isinstance(shape, (tuple, list)) or len(shape) != 3:
      raise MeshError("The mesh shape is not a triple.", value=shape, rule=rule, remedy="(8, 1, 1)")
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
      raise MeshError("A mesh axis is not a positive number.", value=shape, rule=rule)
    return cls(*shape)

  @property
  def num_devices(self) -> int:
    """Devices in the mesh."""
    return self.data * self.expert * self.model

  @property
  def batch_shards(self) -> int:
    """Devices over which tokens are split."""
    return self.data * self.expert


def make_mesh(shape: MeshShape, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Makes the mesh over the first `shape.num_devices` devices, and over the slices they lie in.

  Raises:
    MeshError: if there are too few devices, or several processes of which some would have none, or
      slices over which data does not divide.
  """
  devices = list(jax.devices() if devices is None else devices)
  if shape.num_devices > len(devices):
    raise MeshError(
      f"The mesh wants {shape.num_devices} devices and there are {len(devices)}.",
      value=f"MESH_SHAPE = {tuple(shape)} on {len(devices)} {devices[0].platform} device(s)",
      rule="data * expert * model is at most the number of devices",
      remedy=f"choose a mesh of at most {len(devices)} devices, e.g. {_fitting(shape, len(devices))}"
      f", or on a CPU emulate them: --emulate_devices={shape.num_devices}",
    )
  if jax.process_count() > 1 and shape.num_devices != len(devices):
    raise MeshError(
      "Several processes must use all of their devices.",
      value=f"MESH_SHAPE = {tuple(shape)} on {len(devices)} devices",
      rule="data * expert * model equals the number of devices of all processes",
      remedy=f"e.g. {_fitting(shape, len(devices))}",
    )
  devices = devices[: shape.num_devices]
  slices = Counter(map(slice_of, devices))
  # An axis of the mesh may be part of an axis of a TPU's torus: 32 of experts on 4x4x4.
  if len(slices) == 1:
    arranged = create_device_mesh(tuple(shape), devices, allow_split_physical_axes=True)
  else:
    _check_slices(shape, slices)
    arranged = create_hybrid_device_mesh(
      shape._replace(data=shape.data // len(slices)),
      (len(slices), 1, 1),
      devices,
      allow_split_physical_axes=True,
      process_is_granule=_is_planned_gpu(devices[0]),
    )
  return Mesh(arranged, AXES, axis_types=_AXIS_TYPES)


def slice_of(device: jax.Device) -> int:
  """Returns the number of the slice, or of the node of GPUs, that a device lies in; 0 on CPU."""
  if _is_planned_gpu(device):
    return device.process_index
  return getattr(device, "slice_index", 0)


def _is_planned_gpu(device: jax.Device) -> bool:
  """Whether it is there only to be compiled for: XLA then puts all nodes in one slice."""
  return device.platform == "gpu" and device.client.runtime_type == "compile_only_runtime"


def _check_slices(shape: MeshShape, devices_of_slice: Counter[int]) -> None:
  """Raises MeshError unless slices are equal and data is a multiple of their number."""
  sizes = sorted(devices_of_slice.values())
  num_slices = len(sizes)
  if shape.data % num_slices == 0 and sizes[0] == sizes[-1]:
    return
  within = _fitting(shape, sizes[0])  # of as many devices as every slice has
  fits = (within[0] * num_slices, *within[1:])
  raise MeshError(
    f"The mesh does not divide over the {num_slices} slices of its devices.",
    value=f"MESH_SHAPE = {tuple(shape)}, slices of {', '.join(map(str, sizes))} devices",
    rule="slices are equal, and data is a multiple of their number: only data crosses slices",
    remedy=f"e.g. {fits}",
  )


def _fitting(shape: MeshShape, num_devices: int) -> tuple[int, int, int]:
  """Returns a mesh of exactly `num_devices`, with as much of `model` and `expert` as divides."""
  model = _largest_divisor(num_devices, shape.model)
  expert = _largest_divisor(num_devices // model, shape.expert)
  return (num_devices // (model * expert), expert, model)


def _largest_divisor(number: int, at_most: int) -> int:
  return next(n for n in range(min(number, at_most), 0, -1) if number % n == 0)
