# SPDX-License-Identifier: Apache-2.0
"""Mesh shapes: what is refused, and that the remedy it names can be built."""

from __future__ import annotations

import re

import jax
import pytest

from switch_t5.errors import MeshError
from switch_t5.sharding.mesh import AXES, MeshShape, make_mesh


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
