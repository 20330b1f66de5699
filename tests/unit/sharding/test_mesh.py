# SPDX-License-Identifier: Apache-2.0
"""Mesh shapes: what is refused, and that the remedy it names can be built."""

from __future__ import annotations

import dataclasses
import re

import jax
import numpy as np
import pytest

from switch_t5.errors import MeshError
from switch_t5.sharding.mesh import AXES, MeshShape, make_mesh


@dataclasses.dataclass(frozen=True)
class SliceDevice:
  """As much of a device as a mesh is arranged by; on CPU devices have no slices."""

  id: int
  slice_index: int
  process_index: int = 0
  platform: str = "cpu"
  device_kind: str = "cpu"


def devices_in_slices(*sizes):
  slices = [index for index, size in enumerate(sizes) for _ in range(size)]
  return [SliceDevice(i, slice_index) for i, slice_index in enumerate(slices)]


@pytest.mark.parametrize(
  "shape",
  [(8, 1), (1, 1, 1, 1), 8, "8,1,1", None, (0, 1, 1), (-1, 8, 1), (2.0, 1, 1), (True, 1, 1)],
)
def test_what_is_not_three_positive_whole_numbers_is_refused(shape):
  with pytest.raises(MeshError) as error:
    MeshShape.parse(shape)
  assert error.value.value == shape
  assert "three positive whole numbers" in error.value.rule


def test_lists_parse_as_gin_gives_them():
  assert MeshShape.parse([2, 4, 1]) == (2, 4, 1)


@pytest.mark.smoke
@pytest.mark.parametrize(
  "shape", [(1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 4, 2), (1, 1, 4)]
)
def test_the_layouts_of_the_paper_are_shapes_of_one_mesh(shape):
  mesh = make_mesh(MeshShape(*shape))
  assert mesh.axis_names == AXES == ("data", "expert", "model")
  assert tuple(mesh.shape.values()) == shape
  assert MeshShape(*shape).batch_shards == shape[0] * shape[1]
  used = [device.id for device in mesh.devices.ravel()]
  assert sorted(used) == [device.id for device in jax.devices()[: MeshShape(*shape).num_devices]]


@pytest.mark.parametrize("num_devices", range(1, 9))
@pytest.mark.parametrize(
  "shape", [(9, 1, 1), (1, 9, 1), (1, 1, 9), (3, 3, 3), (2, 8, 4), (1, 5, 2)]
)
def test_too_many_devices_are_refused_with_a_mesh_that_fits(shape, num_devices):
  devices = jax.devices()[:num_devices]
  with pytest.raises(MeshError, match=rf"{shape[0] * shape[1] * shape[2]} devices") as error:
    make_mesh(MeshShape(*shape), devices)
  suggested = re.search(r"e\.g\. \((\d+), (\d+), (\d+)\)", error.value.remedy)
  mesh = make_mesh(MeshShape(*map(int, suggested.groups())), devices)
  assert mesh.size == num_devices
  assert f"--emulate_devices={shape[0] * shape[1] * shape[2]}" in error.value.remedy


@pytest.mark.parametrize("shape", [(2, 4, 1), (4, 2, 1), (4, 1, 2), (2, 2, 2), (8, 1, 1)])
@pytest.mark.parametrize("interleaved", [False, True])
def test_only_data_crosses_slices(shape, interleaved):
  devices = devices_in_slices(4, 4)
  if interleaved:
    devices = devices[::2] + devices[1::2]
  mesh = make_mesh(MeshShape(*shape), devices)
  assert tuple(mesh.shape.items()) == tuple(zip(AXES, shape, strict=True))
  assert sorted(device.id for device in mesh.devices.ravel()) == list(range(8))
  slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
  # The first half of data is the first slice: neighbours along data are in one slice, too.
  rows = np.repeat([0, 1], shape[0] // 2)
  np.testing.assert_array_equal(slices, np.broadcast_to(rows[:, None, None], shape))


@pytest.mark.parametrize(
  ("shape", "sizes"),
  [((1, 8, 1), (4, 4)), ((2, 2, 2), (2, 2, 2, 2)), ((3, 1, 2), (3, 3)), ((6, 1, 1), (4, 4))],
)
def test_slices_that_do_not_divide_are_refused_with_a_mesh_that_fits(shape, sizes):
  devices = devices_in_slices(*sizes)
  with pytest.raises(MeshError, match="slices") as error:
    make_mesh(MeshShape(*shape), devices)
  assert str(shape) in error.value.value
  suggested = re.search(r"e\.g\. \((\d+), (\d+), (\d+)\)", error.value.remedy)
  mesh = make_mesh(MeshShape(*map(int, suggested.groups())), devices)
  assert mesh.size <= len(devices)
