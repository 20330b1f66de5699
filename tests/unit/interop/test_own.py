# SPDX-License-Identifier: Apache-2.0
"""Our checkpoints: what is written from elsewhere is what a run saves, and is read back exactly."""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stored

from switch_t5.checkpoint.listing import verify_checkpoint
from switch_t5.checkpoint.manager import CheckpointManager
from switch_t5.errors import CheckpointError
from switch_t5.interop import own
from switch_t5.interop.checkpoint import PARAM_STATES, STEP
from switch_t5.interop.own_names import optimizer_obstacle, stack_adafactor
from switch_t5.model.definition import define_model
from switch_t5.optim.adafactor import AdafactorState, adafactor, num_batch_axes
from switch_t5.sharding.mesh import MeshShape, make_mesh
from switch_t5.training.init import init_state
from switch_t5.training.state import abstract_state

# Factored: d_model and d_ff of at least 128; experts narrower than d_model swap rows and columns.
WIDE = {"d_model": 128, "d_ff": 160, "d_kv": 32, "num_encoder_layers": 2}


def run_state(model, mesh_shape=(1, 1, 1)):
  """Returns the abstract state of a run, and a new one."""
  definition = define_model(model)
  batch_axes = jax.tree.map(lambda _, a: num_batch_axes(a), definition.shapes, definition.axes)
  optimizer = adafactor(lambda step: 1e-2, batch_axes=batch_axes)
  mesh = make_mesh(MeshShape(*mesh_shape))
  abstract = abstract_state(definition, optimizer, mesh)
  return definition, optimizer, abstract


def wide(**changes):
  return stored.switch(**WIDE | {"num_encoder_sparse_layers": 1} | changes)


@pytest.mark.parametrize(
  "model",
  [stored.dense(), stored.gated(), wide(), wide(d_ff=128)],
  ids=["dense", "gated", "switch", "square"],
)
def test_what_was_written_is_read_back_bit_for_bit(model, tmp_path):
  wanted = stored.checkpoint(model)
  path = own.write_own(wanted, model, tmp_path, "# nothing\n", stored.ignore)
  assert path.name == "checkpoint_7"
  assert verify_checkpoint(path) == []
  stored.assert_same(own.open_own(path), wanted)


def test_a_run_goes_on_with_it_on_any_mesh(tmp_path):
  model = wide()
  checkpoint = stored.checkpoint(model)
  own.write_own(checkpoint, model, tmp_path, "# nothing\n", stored.ignore)
  _, _, abstract = run_state(model, (2, 2, 2))
  restored = CheckpointManager(tmp_path).restore(abstract)
  assert restored.is_imported
  assert (restored.step, int(restored.state.step), int(restored.state.opt_state.count)) == (7, 7, 7)
  params = jax.device_get(restored.state.params)
  wi = params["encoder"]["blocks"]["layers_1"]["mlp"]["expert"]["wi"]["kernel"]
  name = "encoder/layers_1/mlp/expert/wi/kernel"
  np.testing.assert_array_equal(wi[0], checkpoint.parameters()[name].read())
  v_row = restored.state.opt_state.v_row
  np.testing.assert_array_equal(
    jax.device_get(v_row["encoder"]["blocks"]["layers_1"]["mlp"]["expert"]["wi"]["kernel"])[0],
    checkpoint.arrays[f"{PARAM_STATES}{name}/v_row"].read(),
  )


def test_what_a_run_saved_is_read_under_t5xs_names(tmp_path):
  model = wide(encoder_sparse_layout="top", num_encoder_layers=3)
  definition, optimizer, abstract = run_state(model)
  state = init_state(definition, optimizer, abstract, seed=0)
  manager = CheckpointManager(tmp_path)
  manager.save(3, state._replace(step=jnp.int32(3)), data_state={}, config_text="")
  manager.close()
  found = own.open_own(tmp_path / "checkpoint_3")
  assert found.step == 3
  params = jax.device_get(state.params)["encoder"]
  for layer, values in [
    (0, params["blocks"]["layers_0"]["attention"]["query"]["kernel"][0]),
    (1, params["blocks"]["layers_0"]["attention"]["query"]["kernel"][1]),
    (2, params["blocks_1"]["layers_0"]["attention"]["query"]["kernel"][0]),
  ]:
    name = f"target/encoder/layers_{layer}/attention/query/kernel"
    np.testing.assert_array_equal(found.arrays[name].read(), values)
  assert isinstance(state.opt_state, AdafactorState)
  assert found.arrays.keys() == stored.checkpoint(model).arrays.keys()


def test_experts_narrower_than_the_model_swap_rows_and_columns(tmp_path):
  model = stored.switch(**WIDE | {"d_model": 192, "d_ff": 160, "num_encoder_sparse_layers": 1})
  checkpoint = stored.checkpoint(model)
  own.write_own(checkpoint, model, tmp_path, "", stored.ignore)
  _, _, abstract = run_state(model)  # whose shapes follow from our own rule
  state = CheckpointManager(tmp_path).restore(abstract).state
  v_row = state.opt_state.v_row["encoder"]["blocks"]["layers_1"]["mlp"]["expert"]["wi"]["kernel"]
  wanted = checkpoint.arrays[f"{PARAM_STATES}encoder/layers_1/mlp/expert/wi/kernel/v_col"].read()
  np.testing.assert_array_equal(jax.device_get(v_row)[0], wanted)
  stored.assert_same(own.open_own(tmp_path / "checkpoint_7"), checkpoint)


def test_parameters_alone_are_enough(tmp_path):
  model = stored.dense()
  path = own.write_own(
    stored.checkpoint(model, adafactor=False), model, tmp_path, "", stored.ignore
  )
  params = {"params": run_state(model)[2].params}
  restored = CheckpointManager(tmp_path).restore(params, partial=True)
  assert restored.step == 7
  assert own.open_own(path).parameters().keys() == stored.checkpoint(model).parameters().keys()


def test_bfloat16_becomes_float32(tmp_path):
  model = stored.dense()
  source = stored.checkpoint(model, adafactor=False, dtype=stored.BFLOAT16)
  found = own.open_own(own.write_own(source, model, tmp_path, "", stored.ignore))
  name = "target/encoder/layers_0/mlp/wi/kernel"
  assert found.arrays[name].dtype == np.float32
  np.testing.assert_array_equal(
    found.arrays[name].read(), source.arrays[name].read().astype(np.float32)
  )


def test_a_table_that_is_no_multiple_of_128_is_padded_with_zeros(tmp_path):
  model = stored.gated(vocab_size=99)
  source = stored.checkpoint(model, adafactor=False)
  found = own.open_own(own.write_own(source, model, tmp_path, "", stored.ignore))
  table = found.arrays["target/token_embedder/embedding"].read()
  np.testing.assert_array_equal(table[:99], source.arrays["target/token_embedder/embedding"].read())
  assert table.shape == (128, 16)
  assert not table[99:].any()
  assert found.arrays["target/decoder/logits_dense/kernel"].shape == (16, 128)


def test_a_flipped_bit_is_named(tmp_path):
  model = stored.dense()
  path = own.write_own(stored.checkpoint(model), model, tmp_path, "", stored.ignore)
  data = max(path.rglob("d/*"), key=lambda file: file.stat().st_size)
  raw = bytearray(data.read_bytes())
  raw[len(raw) // 2] ^= 1
  data.write_bytes(raw)
  with pytest.raises(CheckpointError, match=data.name):
    own.open_own(path)


def test_a_file_that_is_mostly_a_hole_is_not_hashed(tmp_path):
  model = stored.dense()
  path = own.write_own(stored.checkpoint(model), model, tmp_path, "", stored.ignore)
  os.truncate(path / "config.gin", 1 << 40)
  with pytest.raises(CheckpointError, match=r"config\.gin: .* bytes are not there"):
    own.open_own(path)


NORM = f"{PARAM_STATES}encoder/encoder_norm/scale"


@pytest.mark.parametrize("name", [f"{NORM}/v_row", STEP])
def test_state_that_is_not_complete_is_refused(name, tmp_path):
  checkpoint = stored.checkpoint(stored.dense())
  checkpoint.arrays.pop(name)
  with pytest.raises(CheckpointError, match=name.removeprefix(PARAM_STATES)):
    own.write_own(checkpoint, stored.dense(), tmp_path, "", stored.ignore)
  assert not list(tmp_path.glob("checkpoint_*"))


def test_state_that_a_run_cannot_go_on_with_is_left_aside_with_the_reason(tmp_path):
  model = stored.dense()
  momentum, other, odd = (stored.checkpoint(m) for m in (model, model, stored.dense(vocab_size=99)))
  momentum.arrays[f"{NORM}/m"] = stored.array(np.ones(16, np.float32))
  for name in [name for name in other.arrays if name.startswith(PARAM_STATES)]:
    values = other.arrays.pop(name)
    other.arrays[name.replace(PARAM_STATES, f"{PARAM_STATES}0/mu/")] = values
  for checkpoint, said in ((momentum, "momentum"), (other, "not Adafactor's"), (odd, "padded")):
    assert said in optimizer_obstacle(checkpoint)
    assert stack_adafactor(checkpoint, model) is None
  path = own.write_own(momentum, model, tmp_path, "", stored.ignore)
  assert not any(name.startswith(PARAM_STATES) for name in own.open_own(path).arrays)
