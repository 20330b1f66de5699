# SPDX-License-Identifier: Apache-2.0
"""What a student has of its teacher: all that both have, layer by layer, and of experts what was asked."""

from __future__ import annotations

import jax
import ml_dtypes
import numpy as np
import pytest
import stored
from parameters import random_params

from switch_t5.checkpoint.tree import leaves_by_path
from switch_t5.errors import CheckpointError
from switch_t5.interop import names
from switch_t5.interop.model_shape import blocks_and_repeats, expected_shapes
from switch_t5.interop.student import AS_TEACHER, BY_LOAD, StudentParameters
from switch_t5.model.definition import define_model
from switch_t5.sharding.mesh import MeshShape, make_mesh
from switch_t5.sharding.rules import PARAMETER_RULES
from switch_t5.training.state import abstract_params, shardings

SPARSE = ("encoder/layers_1", "encoder/layers_3", "decoder/layers_1")
LOADS = {layer: np.array([1.0, 2.0, 5.0, 0.0]) + number for number, layer in enumerate(SPARSE)}


def by_t5x(config, params):
  """The parameters, an array for each layer."""
  leaves = {"/".join(path): np.asarray(leaf) for path, leaf in leaves_by_path(params).items()}
  found = {}
  for name in expected_shapes(config):
    layout = blocks_and_repeats(config, name.split("/")[0]) if "layers_" in name else ()
    own, index = names.stacked(name, layout)
    found[name] = leaves[own] if index is None else leaves[own][index]
  return found


def from_teacher(student, teacher, as_teacher, mesh_shape=(1, 1, 1), rules="replicated"):
  """Returns what was drawn, what was loaded, and what is said of it."""
  definition = define_model(student)
  drawn = random_params(definition)
  layout = shardings(
    abstract_params(definition, make_mesh(MeshShape(*mesh_shape)), PARAMETER_RULES[rules])
  )
  initial = StudentParameters(teacher, definition, as_teacher)
  if as_teacher in BY_LOAD:
    initial.measured(LOADS)
  loaded = initial.load(jax.device_put(drawn, layout))
  jax.tree.map(lambda leaf, sharding: leaf.sharding == sharding or pytest.fail(), loaded, layout)
  return by_t5x(student, drawn), by_t5x(student, loaded), initial.describe()


def of_experts(experts, load, as_teacher):
  """The oracle: one expert after the other."""
  if as_teacher == "most_used":
    return experts[2]
  weights = load / load.sum() if as_teacher == "load_mean" else np.full(4, 0.25)
  return sum(weight * expert for weight, expert in zip(weights, experts, strict=True))


@pytest.mark.parametrize("as_teacher", AS_TEACHER)
@pytest.mark.parametrize(
  ("mesh_shape", "rules"),
  [((1, 1, 1), "replicated"), ((2, 2, 2), "replicated"), ((4, 1, 2), "fsdp")],
)
def test_what_both_have_is_copied_and_experts_become_what_was_asked(as_teacher, mesh_shape, rules):
  teacher = stored.checkpoint(stored.switch(), adafactor=False)
  arrays = {name: array.read() for name, array in teacher.parameters().items()}
  drawn, loaded, said = from_teacher(stored.dense(), teacher, as_teacher, mesh_shape, rules)
  for name, value in loaded.items():
    experts = arrays.get(name.replace("/mlp/", "/mlp/expert/"))
    if name in arrays:
      np.testing.assert_array_equal(value, arrays[name], err_msg=name)
    elif as_teacher == "fresh":
      np.testing.assert_array_equal(value, drawn[name], err_msg=name)
    else:
      load = LOADS["/".join(name.split("/")[:2])]
      np.testing.assert_allclose(value, of_experts(experts, load, as_teacher), atol=1e-6)
  lines = [" ".join(line.split()) for line in said.splitlines()]
  assert "decoder/self_attention copied" in lines
  assert "encoder/mlp copied (layers 0, 2)" in lines
  assert {
    "fresh": "drawn: the teacher has 4 experts there (layers 1, 3)",
    "mean": "mean of 4 experts (layers 1, 3)",
    "most_used": "expert 2 of 4, the most used: 62% of the choices (layers 1)",
    "load_mean": "mean by load of 4 experts (layers 1, 3)",
  }[as_teacher] in lines


def test_a_shallower_student_of_another_width_takes_what_fits_and_says_what_does_not():
  student = stored.dense(num_encoder_layers=2, num_decoder_layers=1, d_ff=64)
  teacher = stored.checkpoint(stored.switch(), adafactor=False, dtype=ml_dtypes.bfloat16)
  drawn, loaded, said = from_teacher(student, teacher, "mean")
  for name, value in loaded.items():
    wanted = drawn[name] if "/mlp/" in name else teacher.parameters()[name].read()
    np.testing.assert_array_equal(value, wanted.astype(np.float32), err_msg=name)
  assert "drawn: the teacher's is [16, 32], not [16, 64]" in said
  assert "drawn: the teacher's experts are [16, 32], not [16, 64]" in said


def test_a_sparse_student_takes_the_routers_and_experts_of_the_same_layers():
  student = stored.switch(num_encoder_sparse_layers=1, encoder_sparse_layout="top")
  teacher = stored.checkpoint(stored.switch(), adafactor=False)
  drawn, loaded, said = from_teacher(student, teacher, "fresh")
  for name, value in loaded.items():
    wanted = teacher.parameters().get(name)
    np.testing.assert_array_equal(value, drawn[name] if wanted is None else wanted.read(), name)
  assert "encoder/mlp/expert" in said and "encoder/mlp/router/router_weights/w" in said


@pytest.mark.parametrize(("of_student", "of_teacher"), [(250, 250), (250, 300), (300, 250)])
def test_tables_that_are_padded_differently_share_the_rows_that_both_have(of_student, of_teacher):
  student = stored.dense(vocab_size=of_student, logits_via_embedding=False)
  teacher = stored.checkpoint(
    stored.dense(vocab_size=of_teacher, logits_via_embedding=False), adafactor=False
  )
  drawn, loaded, said = from_teacher(student, teacher, "fresh", (1, 1, 4))
  for name, axis in (("token_embedder/embedding", 0), ("decoder/logits_dense/kernel", 1)):
    values, kept = np.moveaxis(loaded[name], axis, 0), np.moveaxis(drawn[name], axis, 0)
    rows = min(of_teacher, len(values))
    of = np.moveaxis(teacher.parameters()[name].read(), axis, 0)
    np.testing.assert_array_equal(values[:rows], of[:rows])
    np.testing.assert_array_equal(values[rows:], kept[rows:])
    assert f"{rows} of {len(values)} rows copied, the rest drawn" in said


@pytest.mark.parametrize(
  ("teacher", "as_teacher", "message"),
  [
    (stored.switch(vocab_size=128), "fresh", "vocabularies of different sizes"),
    (stored.switch(d_model=8), "fresh", "Nothing of the teacher fits"),
    (stored.dense(), "most_used", "The teacher has no experts"),
    (stored.dense(), "mean", "The teacher has no experts"),
  ],
)
def test_a_teacher_that_cannot_be_one_is_refused(teacher, as_teacher, message):
  with pytest.raises(CheckpointError, match=message):
    StudentParameters(
      stored.checkpoint(teacher, adafactor=False), define_model(stored.dense()), as_teacher
    )
