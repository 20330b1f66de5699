# SPDX-License-Identifier: Apache-2.0
"""Selective precision of the whole train step (paper section 2.4), read from the partitioned program.

XLA on CPU computes bfloat16 collectives in float32, so the types are those of the program as it was
right after XLA had partitioned it.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from collectives import Collective, collectives
from jax.experimental.compilation_cache import compilation_cache

from switch_t5.batch import batch_spec
from switch_t5.losses.objective import LossConfig
from switch_t5.model.definition import define_model
from switch_t5.optim.adafactor import adafactor, num_batch_axes
from switch_t5.sharding.mesh import MeshShape, make_mesh
from switch_t5.sharding.placement import batch_sharding
from switch_t5.sharding.rules import PARAMETER_RULES
from switch_t5.training.objective import CrossEntropyObjective
from switch_t5.training.state import abstract_state
from switch_t5.training.train_step import build_train_step

MESH = MeshShape(2, 2, 2)
ROWS, LENGTHS = 16, (12, 9)  # of a batch
TOKENS = [ROWS // MESH.batch_shards * length for length in LENGTHS]  # on a device
GATED = {"mlp_activations": ("gelu", "linear"), "logits_via_embedding": False, "remat": "full"}
SMALL = {"num_encoder_layers": 1, "num_encoder_sparse_layers": 1, "train_capacity_factor": 1.25}


@pytest.fixture(autouse=True)
def no_compilation_cache():
  """A program that was compiled before is not partitioned again."""
  jax.config.update("jax_enable_compilation_cache", False)
  compilation_cache.reset_cache()
  yield
  jax.config.update("jax_enable_compilation_cache", True)
  compilation_cache.reset_cache()


@pytest.mark.parametrize(
  ("parameter_sharding", "changes"), [("replicated", {}), ("fsdp", GATED)], ids=["1.0", "1.1, fsdp"]
)
def test_no_float32_activation_crosses_devices(tiny_config, tmp_path, parameter_sharding, changes):
  config = dataclasses.replace(tiny_config, activation_dtype="bfloat16", **SMALL, **changes)
  found = partitioned(config, parameter_sharding, tmp_path)
  width, columns = config.d_model, config.d_model // MESH.model

  def is_activation(shape):
    """[tokens, d] or more rows of it, with d split over model or not."""
    table = (config.padded_vocab_size // MESH.model, width)
    rows = math.prod(shape[:-1])
    return (
      len(shape) > 1 and shape[-1] in (width, columns) and rows >= min(TOKENS) and shape != table
    )

  crossing = [
    (dtype, shape, c.kind)
    for c in found
    for dtype, shape in zip(c.dtypes, c.shapes, strict=True)
    if is_activation(shape)
  ]
  assert {kind for _, _, kind in crossing} >= {"all-to-all", "all-gather", "all-reduce"}
  assert [entry for entry in crossing if entry[0] != "bf16"] == []
  # Each Switch layer: two all-to-alls forward, two backward, of capacity_factor * T * d / m elements.
  sent = sorted(sum(c.sizes) for c in found if c.kind == "all-to-all")
  capacities = [math.ceil(1.25 * 2 * length / config.num_experts) for length in LENGTHS]
  groups = ROWS // MESH.batch_shards // 2
  per_layer = [config.num_experts * groups * capacity * columns for capacity in capacities]
  assert sent == sorted(per_layer * 4)


def partitioned(config, parameter_sharding, folder) -> list[Collective]:
  """Compiles the train step; checks the types of the state; returns its collectives."""
  definition, mesh = define_model(config), make_mesh(MESH)
  batch_axes = jax.tree.map(lambda _, n: num_batch_axes(n), definition.shapes, definition.axes)
  optimizer = adafactor(optax.constant_schedule(1e-3), batch_axes=batch_axes)
  batch = {
    name: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=batch_sharding(mesh))
    for name, spec in batch_spec((1, ROWS), *LENGTHS).items()
  }
  with jax.set_mesh(mesh):
    state = abstract_state(definition, optimizer, mesh, PARAMETER_RULES[parameter_sharding])
    objective = CrossEntropyObjective(LossConfig(), config.train_capacity_factor)
    step = build_train_step(definition, optimizer, objective, state, num_microbatches=1).lower(
      state, batch, np.uint32(0)
    )
    step.compile(
      {
        "xla_dump_to": str(folder),
        "xla_dump_hlo_pass_re": "spmd-partitioning",
        "xla_backend_optimization_level": 0,
      }
    )
  # Parameters are the master weights, and all of the optimizer's state is float32.
  after, _ = step.out_info
  for kept in (state, after):
    leaves = jax.tree.leaves((kept.params, kept.opt_state))
    assert {leaf.dtype for leaf in leaves if leaf.ndim} == {jnp.dtype(jnp.float32)}
  (text,) = folder.glob("*after_spmd-partitioning*")
  return collectives(text.read_text())
