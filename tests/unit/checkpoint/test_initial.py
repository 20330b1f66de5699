# SPDX-License-Identifier: Apache-2.0
"""Parameters of one run as the first parameters of another: all of them, or by an assignment map."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from switch_t5.checkpoint.initial import InitialParameters, SavedParameters, SavedState, assign
from switch_t5.checkpoint.manager import CheckpointManager
from switch_t5.errors import CheckpointError, ConfigError

NAMES = ["encoder/layers_0/mlp/wi/kernel", "encoder/layers_0/mlp/wo/kernel", "table"]


def params(seed):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
  mlp = {"wi": {"kernel": draw(8, 16)}, "wo": {"kernel": draw(16, 8)}}
  return {"encoder": {"layers_0": {"mlp": mlp}}, "table": draw(32, 8)}


def shapes(tree):
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


@pytest.fixture
def saved(tmp_path):
  """The path of a checkpoint that also holds other things than parameters."""
  manager = CheckpointManager(tmp_path / "checkpoints")
  state = {"params": params(0), "opt_state": {"v": jnp.ones(3)}, "step": jnp.int32(7)}
  manager.save(7, state, data_state={}, config_text="")
  manager.close()
  return tmp_path / "checkpoints" / "checkpoint_7"


def test_all_parameters_come_by_their_own_name_in_the_new_runs_sharding(saved):
  mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
  new = params(1)
  new["table"] = jax.device_put(new["table"], NamedSharding(mesh, PartitionSpec("data")))
  initial = InitialParameters(SavedParameters(saved), shapes(new))
  loaded = initial.load(new)
  jax.tree.map(np.testing.assert_array_equal, loaded, params(0))
  assert loaded["table"].sharding == new["table"].sharding
  assert initial.describe().startswith("3 of 3 parameters are taken from")


def test_a_map_renames_and_draws_anew_and_says_so(saved):
  old, new = params(0), params(1)
  new["decoder"] = {"mlp": {"up": jnp.zeros((8, 16))}, "head": jnp.ones((2, 2))}
  rules = [(r"decoder/mlp/up", "encoder/layers_0/mlp/wi/kernel"), (r"decoder/.*", None)]
  initial = InitialParameters(SavedParameters(saved), shapes(new), rules)
  loaded = initial.load(new)
  np.testing.assert_array_equal(
    loaded["decoder"]["mlp"]["up"], old["encoder"]["layers_0"]["mlp"]["wi"]["kernel"]
  )
  np.testing.assert_array_equal(loaded["decoder"]["head"], new["decoder"]["head"])
  np.testing.assert_array_equal(loaded["table"], old["table"])
  text = initial.describe()
  assert "4 of 5" in text and "decoder/head <- drawn anew  (decoder/.*)" in text


def test_groups_of_the_pattern_stand_in_the_replacement_and_the_first_match_counts():
  rules = [(r"(.*)/wi/(.*)", r"\1/w/\2"), (r"encoder/(.*)", r"\1")]
  assert [a.source for a in assign(NAMES, rules)] == [
    "encoder/layers_0/mlp/w/kernel",
    "layers_0/mlp/wo/kernel",
    "table",
  ]


def test_a_rule_that_matches_nothing_is_refused():
  with pytest.raises(ConfigError, match="matches nothing") as error:
    assign(NAMES, [(r"encoder/layers_0/mlp/wi", None)])  # a part of the name is not the whole
  assert error.value.remedy == "a name like encoder/layers_0/mlp/wi/kernel"


@pytest.mark.parametrize("entry", [("(", None), "table", (1, 2, 3)])
def test_an_entry_that_is_no_pair_or_no_expression_is_refused(entry):
  with pytest.raises(ConfigError, match="assignment_map"):
    assign(NAMES, [entry])


def test_a_missing_array_and_another_shape_are_named(saved):
  new = params(1)
  new["table"], new["head"] = jnp.zeros((64, 8)), jnp.zeros(2)
  with pytest.raises(CheckpointError) as error:
    InitialParameters(SavedParameters(saved), shapes(new))
  assert "~ table  float32[32,8] -> float32[64,8]" in str(error.value)
  assert "+ head  float32[2]: the checkpoint has no head" in str(error.value)


def test_a_damaged_checkpoint_and_none_at_all_are_refused(saved, tmp_path):
  for path in (tmp_path / "nowhere", tmp_path):
    with pytest.raises(CheckpointError, match="none of ours"):
      SavedParameters(path)
  next(iter(saved.glob("d/*"))).write_bytes(b"")
  with pytest.raises(CheckpointError, match="damaged"):
    SavedParameters(saved)


def test_a_whole_state_goes_on_with_its_step_in_the_new_runs_sharding(saved):
  mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
  state = {"params": params(1), "opt_state": {"v": jnp.zeros(3)}, "step": jnp.int32(0)}
  state["params"]["table"] = jax.device_put(
    state["params"]["table"], NamedSharding(mesh, PartitionSpec("data"))
  )
  opened = SavedState(saved, state)
  assert opened.step == 7
  loaded = opened.load()
  want = {"params": params(0), "opt_state": {"v": jnp.ones(3)}, "step": jnp.int32(7)}
  jax.tree.map(np.testing.assert_array_equal, loaded, want)
  assert loaded["params"]["table"].sharding == state["params"]["table"].sharding


def test_a_state_of_another_optimizer_is_refused_with_the_way_round(saved):
  state = {"params": params(0), "opt_state": {"mu": jnp.zeros(3)}, "step": jnp.int32(0)}
  with pytest.raises(CheckpointError, match=r"restore_optimizer = False") as error:
    SavedState(saved, state)
  assert "+ opt_state/mu" in str(error.value) and "- opt_state/v" in str(error.value)
