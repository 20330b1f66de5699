# SPDX-License-Identifier: Apache-2.0
"""T5X's checkpoints through Orbax: those that Orbax wrote are read, those we write it reads."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import stored

from switch_t5.checkpoint import tree
from switch_t5.errors import CheckpointError
from switch_t5.interop.t5x_orbax import open_t5x_orbax, write_t5x_orbax

NAME = "target/encoder/layers_1/mlp/expert/wi/kernel"


def nested(checkpoint):
  """Returns the state dict as T5X holds it."""
  return tree.nested(
    {tuple(name.split("/")): array.read() for name, array in checkpoint.arrays.items()}
  )


@pytest.fixture(scope="module")
def wanted():
  return stored.checkpoint(stored.switch(num_encoder_layers=2, num_encoder_sparse_layers=1))


@pytest.fixture(scope="module", params=["ocdbt", "a folder each", "of jax arrays"])
def by_orbax(request, wanted, tmp_path_factory):
  """A checkpoint that Orbax itself wrote; do not change it."""
  path = tmp_path_factory.mktemp("orbax") / "checkpoint_7"
  state = nested(wanted)
  if request.param == "of jax arrays":
    state["target"]["encoder"]["encoder_norm"]["scale"] = jnp.asarray(
      state["target"]["encoder"]["encoder_norm"]["scale"]
    )
  handler = ocp.PyTreeCheckpointHandler(use_ocdbt=request.param != "a folder each")
  with ocp.Checkpointer(handler) as checkpointer:
    checkpointer.save(path / "state", args=ocp.args.PyTreeSave(state))
  return path


def test_what_orbax_wrote_is_read_exactly(by_orbax, wanted):
  stored.assert_same(open_t5x_orbax(by_orbax), wanted)
  stored.assert_same(open_t5x_orbax(by_orbax / "state"), wanted)


@pytest.mark.parametrize("dtype", [np.float32, stored.BFLOAT16])
def test_what_we_write_is_read_back_bit_for_bit(dtype, tmp_path):
  wanted = stored.checkpoint(stored.gated(), dtype=dtype)
  write_t5x_orbax(wanted, tmp_path / "checkpoint_7", stored.ignore)
  stored.assert_same(open_t5x_orbax(tmp_path / "checkpoint_7"), wanted)


def test_orbaxs_own_manager_reads_what_we_write(wanted, tmp_path):
  write_t5x_orbax(wanted, tmp_path / "checkpoint_7", stored.ignore)
  options = ocp.CheckpointManagerOptions(step_prefix="checkpoint", read_only=True)
  with ocp.CheckpointManager(tmp_path, item_names=("state",), options=options) as manager:
    assert manager.latest_step() == 7
    restored = manager.restore(7, args=ocp.args.Composite(state=ocp.args.PyTreeRestore()))
  found = tree.leaves_by_path(restored["state"])
  assert {"/".join(path) for path in found} == set(wanted.arrays)
  np.testing.assert_array_equal(found[tuple(NAME.split("/"))], wanted.arrays[NAME].read())


@pytest.fixture
def folders(wanted, tmp_path):
  """One with a folder for each array, to be changed."""
  handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
  with ocp.Checkpointer(handler) as checkpointer:
    checkpointer.save(tmp_path / "state", args=ocp.args.PyTreeSave(nested(wanted)))
  return tmp_path / "state"


def in_metadata(change):
  def apply(folder):
    metadata = json.loads((folder / "_METADATA").read_text())
    change(metadata["tree_metadata"])
    (folder / "_METADATA").write_text(json.dumps(metadata))

  return apply


def key_of(entries, dotted):
  (key,) = [
    k for k, e in entries.items() if ".".join(p["key"] for p in e["key_metadata"]) == dotted
  ]
  return key


DOTTED = NAME.replace("/", ".")
LIES = {
  "an array is not listed": (in_metadata(lambda e: e.pop(key_of(e, DOTTED))), DOTTED),
  "one is listed that is not there": (
    lambda folder: [
      *(file.unlink() for file in (folder / DOTTED).iterdir()),
      (folder / DOTTED).rmdir(),
    ],
    DOTTED,
  ),
  "a chunk is missing": (lambda folder: (folder / DOTTED / "0.0.0").unlink(), DOTTED),
  "a path of no text": (
    in_metadata(lambda e: e[key_of(e, DOTTED)]["key_metadata"][0].update(key=3)),
    "an entry with the path",
  ),
  "no list": (lambda folder: (folder / "_METADATA").write_text("{}"), "it lists no arrays"),
  "no object": (lambda folder: (folder / "_METADATA").write_text("[]"), "not a JSON object"),
  "a bomb": (lambda folder: (folder / "_METADATA").write_text("[" * 10**6), "_METADATA"),
  "a link": (lambda folder: (folder / "passwd").symlink_to("/etc/passwd"), "a link"),
}


@pytest.mark.parametrize("change, named", LIES.values(), ids=LIES)
def test_a_lie_is_refused_by_name(change, named, folders):
  change(folders)
  with pytest.raises(CheckpointError) as error:
    open_t5x_orbax(folders)
  assert named in str(error.value)


def test_a_damaged_database_is_an_error(wanted, tmp_path):
  write_t5x_orbax(wanted, tmp_path / "checkpoint_7", stored.ignore)
  database = tmp_path / "checkpoint_7" / "state" / "manifest.ocdbt"
  database.write_bytes(database.read_bytes()[:-1] + b"x")
  with pytest.raises(CheckpointError, match="state"):
    open_t5x_orbax(tmp_path / "checkpoint_7")


def test_a_state_that_lies_elsewhere_is_refused(folders, tmp_path):
  (tmp_path / "checkpoint_7").mkdir()
  (tmp_path / "checkpoint_7" / "state").symlink_to(folders)
  with pytest.raises(CheckpointError, match="state is a link"):
    open_t5x_orbax(tmp_path / "checkpoint_7")
