# SPDX-License-Identifier: Apache-2.0
"""The table from logical to mesh axes, what does not divide, and constraints on activations."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from switch_t5.errors import MeshError
from switch_t5.sharding.annotate import constrain, gathered, param, prepend_axis
from switch_t5.sharding.mesh import AXES, MeshShape, make_mesh
from switch_t5.sharding.rules import (
  PARAMETER_RULES,
  RULES,
  check_divides,
  named_sharding,
  partition_spec,
)

MESH_SHAPE = {"data": 2, "expert": 4, "model": 6}


def test_the_tables_name_axes_of_the_mesh():
  for rules in (RULES, *PARAMETER_RULES.values()):
    assert rules.keys() == RULES.keys()
    for rule in rules.values():
      named = () if rule is None else (rule,) if isinstance(rule, str) else rule
      assert set(named) <= set(AXES)


@pytest.mark.parametrize(
  ("axes", "spec"),
  [
    (("batch", "length", "embed"), P(("data", "expert"), None, None)),
    (("layers", "expert", "embed", "mlp"), P(None, "expert", None, "model")),
    (("vocab", "embed"), P("model", None)),
    ((None, "batch", None), P(None, ("data", "expert"), None)),
    ((), P()),
  ],
)
def test_logical_axes_map_to_mesh_axes(axes, spec):
  assert partition_spec(axes) == spec


def test_an_unknown_axis_is_an_error_that_suggests_the_known_one():
  with pytest.raises(KeyError, match=r"'expertt'.*Did you mean expert"):
    partition_spec(("expertt",))


@pytest.mark.parametrize(
  ("size", "name", "devices"),
  [(12, "expert", 4), (16, "batch", 8), (12, "mlp", 6), (7, "embed", 1)],
)
def test_a_dimension_that_divides_passes(size, name, devices):
  assert size % devices == 0
  check_divides(MESH_SHAPE, "w", (size, 5), (name, None))


@pytest.mark.parametrize(("size", "name", "axis"), [(6, "expert", "expert"), (4, "heads", "model")])
def test_a_dimension_that_does_not_divide_is_refused_with_the_sizes_that_fit(size, name, axis):
  with pytest.raises(MeshError) as error:
    check_divides(MESH_SHAPE, "decoder.w", (3, size), (None, name))
  assert "decoder.w" in error.value.what
  assert repr(name) in error.value.value and str(size) in error.value.value
  suggested = re.search(r"of ([\d, ]+)$", error.value.remedy).group(1).split(", ")
  assert suggested == [str(n) for n in range(1, MESH_SHAPE[axis]) if size % n == 0]
  for devices in map(int, suggested):
    check_divides(MESH_SHAPE | {axis: devices}, "decoder.w", (3, size), (None, name))


def test_a_parameter_split_by_choice_that_does_not_divide_may_be_replicated_instead():
  fsdp = PARAMETER_RULES["fsdp"]
  check_divides(MESH_SHAPE, "decoder.w", (6, 12), ("embed", "mlp"), fsdp)
  with pytest.raises(MeshError) as error:
    check_divides(MESH_SHAPE, "decoder.w", (7, 12), ("embed", "mlp"), fsdp)
  assert "decoder.w" in error.value.what
  assert "embed -> data" in error.value.rule
  assert error.value.remedy == "train.parameter_sharding = 'replicated', or data of 1"
  check_divides(MESH_SHAPE, "decoder.w", (7, 12), ("embed", "mlp"))


def test_layers_use_a_split_parameter_whole_and_in_their_type():
  mesh, axes = make_mesh(MeshShape(2, 2, 2)), ("embed", "mlp")
  stored = named_sharding(mesh, axes, PARAMETER_RULES["fsdp"])
  assert stored.spec == P("data", "model")
  w = jnp.arange(32.0).reshape(8, 4)
  assert (gathered(param(w, axes), jnp.float32) == w).all()  # outside a mesh
  with jax.set_mesh(mesh):
    use = jax.jit(lambda w: gathered(param(w, axes), jnp.bfloat16), in_shardings=stored)
    used = use(w)
  assert used.dtype == jnp.bfloat16
  assert used.sharding.is_equivalent_to(named_sharding(mesh, axes), w.ndim)
  assert (used.astype(jnp.float32) == w).all()


def test_a_parameter_carries_a_name_for_each_dimension():
  module = nnx.Module()
  module.w = param(jnp.zeros((2, 3)), ("embed", "mlp"))
  assert module.w.get_metadata()["axes"] == ("embed", "mlp")
  prepend_axis(module, "layers")
  assert module.w.get_metadata()["axes"] == ("layers", "embed", "mlp")
  with pytest.raises(ValueError, match="names 1 axes"):
    param(jnp.zeros((2, 3)), ("embed",))


def test_a_constraint_shards_inside_a_mesh_and_does_nothing_outside():
  x = jnp.arange(16.0).reshape(8, 2)
  assert constrain(x, "batch", "mlp") is x
  mesh = make_mesh(MeshShape(2, 2, 2))
  with jax.set_mesh(mesh):
    y = jax.jit(lambda x: constrain(x, "batch", "mlp"))(x)
  assert y.sharding.is_equivalent_to(named_sharding(mesh, ("batch", "mlp")), x.ndim)
  assert (y == x).all()


def test_a_constraint_names_every_dimension():
  with pytest.raises(ValueError, match="names 1 axes"):
    constrain(jnp.zeros((2, 3)), "batch")
