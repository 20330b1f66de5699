# SPDX-License-Identifier: Apache-2.0
"""A T5X run goes on in ours: one update from its state is T5X's Adafactor's, written down in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stored

from switch_t5.checkpoint.manager import CheckpointManager
from switch_t5.interop import convert, detect, own
from switch_t5.interop.checkpoint import PARAM_STATES, PARAMETERS, STEP
from switch_t5.interop.names import find_t5x
from switch_t5.interop.own_names import stack_parameters
from switch_t5.model.definition import define_model
from switch_t5.optim.adafactor import adafactor, num_batch_axes
from switch_t5.sharding.mesh import MeshShape, make_mesh
from switch_t5.training.state import abstract_state

LEARNING_RATE, STEP_NUMBER = 0.01, 7
WIDE = {"d_model": 160, "d_kv": 40, "num_encoder_layers": 2, "num_decoder_layers": 1}
MODELS = {
  "not factored": stored.gated(),
  "experts wider than the model": stored.switch(**WIDE, num_encoder_sparse_layers=1, d_ff=192),
  "experts narrower": stored.switch(**WIDE, num_encoder_sparse_layers=1, d_ff=128),
}


def t5x_update(name, param, grad, slots, step):
  """Returns the parameter and v, v_row, v_col after a step of T5X's Adafactor (float64).

  Shazeer & Stern (2018), algorithms 4 and 5, per matrix; an expert's matrices are T5X's BATCH, its
  d_model ROW and its width COLUMN.
  """
  found = find_t5x(name)
  decay = 1.0 - (step + 1.0) ** -0.8
  squared = grad * grad + 1e-30
  axes = tuple(range(param.ndim))
  if slots["v_row"].shape == (1,):
    v = decay * slots["v"] + (1 - decay) * squared
    update, after = grad / np.sqrt(v), {"v": v}
  else:
    if found.row.shape.startswith("E"):
      axes = (1, 2)
      row_axis, column_axis = (1, 2) if found.row.shape == "Edf" else (2, 1)
    else:  # v_row drops the largest axis
      row_axis, column_axis = np.argsort(param.shape)
    v_row = decay * slots["v_row"] + (1 - decay) * squared.mean(column_axis)
    v_col = decay * slots["v_col"] + (1 - decay) * squared.mean(row_axis)
    v = (
      np.expand_dims(v_row, column_axis)
      * np.expand_dims(v_col, row_axis)
      / np.expand_dims(v_row.mean(-1, keepdims=True), 1 if param.ndim == 3 else 0)
    )
    update, after = grad / np.sqrt(v), {"v_row": v_row, "v_col": v_col}
  rms = lambda x: np.sqrt((x * x).mean(axes, keepdims=True))  # noqa: E731
  update = update / np.maximum(1.0, rms(update))
  return param - LEARNING_RATE * np.maximum(rms(param), 1e-3) * update, after


def updated_by_us(model, folder, gradients):
  """Restores what was imported, applies one update, saves; returns the checkpoint."""
  definition = define_model(model)
  batch_axes = jax.tree.map(lambda _, a: num_batch_axes(a), definition.shapes, definition.axes)
  optimizer = adafactor(lambda step: LEARNING_RATE, batch_axes=batch_axes)
  abstract = abstract_state(definition, optimizer, make_mesh(MeshShape(1, 1, 1)))
  manager = CheckpointManager(folder / "checkpoints")
  state = manager.restore(abstract).state

  @jax.jit
  def update(state, gradients):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
      updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
      params = jax.tree.map(jnp.add, state.params, updates)
    return state._replace(step=state.step + 1, params=params, opt_state=opt_state)

  manager.save(STEP_NUMBER + 1, update(state, gradients), data_state={}, config_text="")
  manager.close()
  return own.open_own(folder / "checkpoints" / f"checkpoint_{STEP_NUMBER + 1}")


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_an_update_after_the_import_is_t5xs(model, tmp_path):
  before, gradients = stored.checkpoint(model), stored.checkpoint(model, adafactor=False, seed=1)
  t5x = convert.export_checkpoint(before, "t5x", tmp_path, stored.ignore)
  convert.import_checkpoint(detect.open_checkpoint(t5x), tmp_path / "run", "", stored.ignore)
  stacked = stack_parameters(gradients, model)
  paths = jax.tree_util.tree_leaves_with_path(define_model(model).shapes)
  names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
  tree = jax.tree.unflatten(
    jax.tree.structure(define_model(model).shapes), [stacked[name].read() for name in names]
  )
  after = updated_by_us(model, tmp_path / "run", tree)
  assert after.arrays.keys() == before.arrays.keys()
  assert int(after.arrays[STEP].read()) == STEP_NUMBER + 1
  for name, param in before.parameters().items():
    slots = {s: before.arrays[f"{PARAM_STATES}{name}/{s}"].read() for s in ("v", "v_row", "v_col")}
    gradient = gradients.parameters()[name].read().astype(np.float64)
    want, moments = t5x_update(
      name, param.read().astype(np.float64), gradient, slots, float(STEP_NUMBER)
    )
    found = after.arrays[PARAMETERS + name].read()
    np.testing.assert_allclose(found, want, rtol=2e-5, atol=1e-6, err_msg=name)
    for slot, value in moments.items():
      found = after.arrays[f"{PARAM_STATES}{name}/{slot}"].read()
      np.testing.assert_allclose(found, value, rtol=2e-5, err_msg=f"{name} {slot}")
