# SPDX-License-Identifier: Apache-2.0
"""The device mesh: axes `data`, `expert`, `model`, in this order.

Tokens are split over data and expert, experts over expert, heads, d_ff and the vocabulary over
model. The five layouts of the paper (section 5) are shapes of this one mesh: data (D,1,1), model
(1,1,m), data and model (D,1,m), expert and data (D,e,1), expert, model and data (D,e,m).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.sharding import AxisType, Mesh

from switch_t5.errors import MeshError

DATA, EXPERT, MODEL = "data", "expert", "model"
AXES = (DATA, EXPERT, MODEL)


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
  """Makes the mesh over the first `shape.num_devices` devices.

  Raises:
    MeshError: if there are too few devices, or several processes of which some would have none.
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
  # Auto: make_mesh's default differs between releases, and explicit axes would type every array.
  return jax.make_mesh(
    tuple(shape), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[: shape.num_devices]
  )


def _fitting(shape: MeshShape, num_devices: int) -> tuple[int, int, int]:
  """Returns a mesh of exactly `num_devices`, with as much of `model` and `expert` as divides."""
  model = _largest_divisor(num_devices, shape.model)
  expert = _largest_divisor(num_devices // model, shape.expert)
  return (num_devices // (model * expert), expert, model)


def _largest_divisor(number: int, at_most: int) -> int:
  return next(n for n in range(min(number, at_most), 0, -1) if number % n == 0)
