# SPDX-License-Identifier: Apache-2.0
"""Saves the state of a run while it goes on, and restores the newest checkpoint that is good.

A checkpoint is `<directory>/checkpoint_<step>/`: the arrays as Orbax writes them (OCDBT: from any
mesh to any mesh, any number of processes), `data_state.json` (the position in the data),
`config.gin` (the operative configuration) and `manifest.json`. The directory is on a file system
that all processes share and that renames atomically, or on an object store (`stored_steps`).
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from absl import logging

from switch_t5.checkpoint import stored_steps, tree
from switch_t5.checkpoint.commit import (
  RestoreState,
  SaveState,
  StateCheckpointer,
  read_text,
  rename_durably,
)
from switch_t5.checkpoint.listing import list_steps, step_path
from switch_t5.checkpoint.manifest import (
  Manifest,
  find_problems,
  read_manifest,
  seal,
)
from switch_t5.errors import CheckpointError, ConfigError, SwitchT5Error
from switch_t5.sharding.placement import from_all_processes
from switch_t5.storage.location import Location, is_remote, location
from switch_t5.types import PyTree

CONFIG = "config.gin"
DATA_STATE = "data_state.json"
IMPORTED_FROM = "imported_from"  # in the data state of a checkpoint that no run of ours saved
_SET_ASIDE = ".set_aside"
_DELETING = ".deleting"


class SkippedStep(NamedTuple):
  """A checkpoint that restoring passed over because it is damaged."""

  step: int
  reason: str


class RestoredCheckpoint(NamedTuple):
  """What `CheckpointManager.restore` found.

  Attributes:
    step: the training step.
    state: the arrays, in the tree and the shardings that were asked for.
    data_state: what was given to `save`.
    config_text: what was given to `save`.
    skipped: newer checkpoints that are damaged, newest first.
  """

  step: int
  state: PyTree
  data_state: dict[str, Any]
  config_text: str
  skipped: tuple[SkippedStep, ...]

  @property
  def is_imported(self) -> bool:
    """Whether another system's run saved it, whose position in the data is not known."""
    return IMPORTED_FROM in self.data_state


class CheckpointManager:
  """The checkpoints of one run. Every process of the run calls every method.

  Args:
    directory: `<MODEL_DIR>/checkpoints`; made by the first save.
    keep: how many good checkpoints to keep, the newest ones; beside one that is protected.
  """

  def __init__(self, directory: str | os.PathLike[str], *, keep: int = 3):
    if keep < 1:
      raise ConfigError("No checkpoint would be kept.", value=keep, rule="keep is at least 1")
    given = location(directory)
    self._directory = given.absolute() if isinstance(given, pathlib.Path) else given
    self._keep = keep
    self._step: int | None = None  # restored or saved last: where this run has got to
    self._saving: int | None = None
    self._protected: int | None = None
    self._types: dict[str, str] = {}  # of the arrays being saved
    self._checkpointer = StateCheckpointer(self._commit)

  def save(self, step: int, state: PyTree, *, data_state: dict[str, Any], config_text: str) -> None:
    """Copies the state to the host and returns; a thread writes and commits it.

    Waits for the save before. A step that this run has just saved or restored is not saved again.
    Checkpoints beyond the point this run has got to, damaged ones or those of a run that went
    another way, are set aside: renamed, and no longer taken for this run's.

    Args:
      step: the training step.
      state: any PyTree of jax.Array.
      data_state: JSON; process 0's is saved.
      config_text: the operative configuration.

    Raises:
      CheckpointError: if this or the save before cannot be written.
    """
    self.wait()
    if step == self._step:
      return
    leaves = tree.leaves_by_path(state)
    texts = {DATA_STATE: json.dumps(data_state), CONFIG: config_text}
    self._types = tree.array_types(leaves)
    try:
      if jax.process_index() == 0:
        self._clear_the_way(step)
      self._checkpointer.save(
        step_path(self._directory, step), args=SaveState(tree.nested(leaves), texts=texts)
      )
    except Exception as error:  # a store's libraries have errors of their own
      if isinstance(error, SwitchT5Error) or not (
        is_remote(self._directory) or isinstance(error, OSError)
      ):
        raise
      raise _save_error(self._directory, step, error) from error
    self._saving = step

  def protect(self, step: int | None) -> None:
    """Never deletes the checkpoint of this step, and may delete the one protected before."""
    self._protected = step

  def wait(self) -> None:
    """Returns once the last save is committed on disk.

    Raises:
      CheckpointError: if it failed.
    """
    self._ask(self._checkpointer.wait_until_finished)
    if self._saving is not None:
      self._step, self._saving = self._saving, None

  def check(self) -> None:
    """Raises as `wait` does if the save that is being written has failed by now; does not wait."""
    self._ask(self._checkpointer.check_for_errors)

  def _ask(self, how_it_went: Callable[[], None]) -> None:
    try:
      how_it_went()
    except Exception as error:  # TensorStore reports a full disk as ValueError
      failed, self._saving = self._saving, None
      if isinstance(error, SwitchT5Error):
        raise
      raise _save_error(self._directory, failed, error) from error

  def close(self) -> None:
    """Waits, and ends the threads. Raises as `wait` does."""
    self.wait()
    self._checkpointer.close()

  def restore(
    self, abstract_state: PyTree, step: int | None = None, *, partial: bool = False
  ) -> RestoredCheckpoint | None:
    """Restores the newest good checkpoint, or that of `step`; returns None if there is none yet.

    A checkpoint is verified against its manifest before anything in it is used. One that is damaged
    is reported and the one before is taken. One of another model is an error.

    Args:
      abstract_state: jax.ShapeDtypeStruct with sharding, or arrays, for every leaf.
      step: this step and no other.
      partial: whether the checkpoint may have other arrays beside.

    Raises:
      CheckpointError: if there are checkpoints and none is good, if `step` is not there or
        damaged, or if a checkpoint has other arrays than `abstract_state`.
    """
    self.wait()
    steps: list[int] = from_all_processes(list_steps(self._directory))[0]
    if step is not None and step not in steps:
      raise CheckpointError(
        "There is no checkpoint of this step.",
        value=f"step {step} in {self._directory}",
        rule=f"the steps that were saved: {steps or 'none'}",
      )
    skipped: list[SkippedStep] = []
    for candidate in reversed(steps) if step is None else [step]:
      found = self._verify(candidate)
      if isinstance(found, Manifest):
        restored = self._read(candidate, found, abstract_state, partial, tuple(skipped))
        self._step = candidate
        return restored
      skipped.append(SkippedStep(candidate, found))
      logging.error("Checkpoint of step %d is damaged: %s", candidate, found)
    if not skipped:
      return None
    raise CheckpointError(
      "No checkpoint is good." if step is None else "The checkpoint is damaged.",
      value="\n          ".join(f"step {bad.step}: {bad.reason}" for bad in skipped),
      rule="every file of a checkpoint is as its manifest says",
      remedy=f"restore {self._directory} from a copy, or choose another MODEL_DIR to begin anew",
    )

  def _verify(self, step: int) -> Manifest | str:
    """Returns the manifest of a good checkpoint, or what is wrong with it."""
    path = step_path(self._directory, step)
    share = (jax.process_index(), jax.process_count())
    shares = from_all_processes(
      [str(problem) for problem in find_problems(path, step, share=share)]
    )
    problems = sorted({problem for problems in shares for problem in problems})
    if not problems:
      found = read_manifest(path)
      if isinstance(found, Manifest):
        return found
      problems = [str(found)]
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more

  def _read(
    self,
    step: int,
    found: Manifest,
    abstract_state: PyTree,
    partial: bool,
    skipped: tuple[SkippedStep, ...],
  ) -> RestoredCheckpoint:
    path = step_path(self._directory, step)
    leaves = tree.leaves_by_path(abstract_state)
    wanted = tree.array_types(leaves)
    saved = {name: kind for name, kind in found.state.items() if name in wanted or not partial}
    tree.check_same_arrays(saved, wanted, str(path))
    item = tree.nested(leaves)
    restore_args = ocp.checkpoint_utils.construct_restore_args(item)
    arrays = tree.leaves_by_path(
      self._checkpointer.restore(
        path,
        args=RestoreState(item=item, restore_args=restore_args, partial_restore=partial),
      )
    )
    structure = jax.tree.structure(abstract_state)
    state = jax.tree.unflatten(structure, [arrays[name] for name in leaves])
    if skipped:
      logging.warning("Restored step %d, the newest good checkpoint.", step)
    data_state = json.loads(read_text(path / DATA_STATE))
    config_text = read_text(path / CONFIG)
    return RestoredCheckpoint(step, state, data_state, config_text, skipped)

  def _clear_the_way(self, step: int) -> None:
    """Process 0, before a save: removes leftovers of killed runs, sets later steps aside."""
    if is_remote(self._directory):
      stored_steps.remove_unfinished(self._directory)
    elif not self._directory.is_dir():
      return
    else:
      self._remove_leftovers()
    for later in list_steps(self._directory):
      if later >= step or (self._step is not None and later > self._step):
        path = step_path(self._directory, later)
        aside = path.with_name(path.name + _SET_ASIDE)
        if is_remote(path):
          stored_steps.move(path, aside)
        else:
          if aside.exists():
            shutil.rmtree(aside)
          rename_durably(path, aside)
        logging.warning(
          "This run goes on from step %s; the checkpoint of step %d is not its own. It was renamed "
          "to %s and may be deleted.",
          "0" if self._step is None else self._step,
          later,
          aside,
        )

  def _remove_leftovers(self) -> None:
    for leftover in self._directory.glob("checkpoint_*"):
      if leftover.name.endswith((ocp.path.atomicity.TMP_DIR_SUFFIX, _DELETING)):
        logging.info("Removing %s, left behind by a run that was killed.", leftover)
        shutil.rmtree(leftover)

  def _commit(self, temporary: Location, final: Location) -> None:
    """Process 0, in the saving thread: seals and renames the new one, then deletes old ones."""
    step = int(final.name.removeprefix("checkpoint_"))
    seal(temporary, step, self._types, jax.process_count())
    if is_remote(final):
      stored_steps.unmark(final)
    else:
      rename_durably(temporary, final)
    try:
      self._delete_old()
    except OSError as error:
      logging.error("Old checkpoints in %s cannot be deleted: %s", self._directory, error)

  def _delete_old(self) -> None:
    """Deletes what is older than the newest `keep` checkpoints that have all their bytes."""
    good = 0
    for step in reversed(list_steps(self._directory)):
      path = step_path(self._directory, step)
      if good == self._keep:
        if step == self._protected:
          continue
        if is_remote(path):
          stored_steps.delete(path)
        else:
          # Renamed first: killed half-way, it must not look like a damaged checkpoint.
          shutil.rmtree(path.rename(path.with_name(path.name + _DELETING)))
      elif not find_problems(path, step, hashes=False):
        good += 1


def _save_error(directory: Location, step: int | None, error: Exception) -> CheckpointError:
  return CheckpointError(
    f"The checkpoint of step {step} was not saved.",
    value=f"{directory}: {str(error).partition(chr(10))[0]}",  # TensorStore goes on for pages
    rule="older checkpoints are as they were",
    remedy=f"see to the {'store' if is_remote(directory) else 'space (df, quota)'} and rights of "
    "this directory, then run again: it goes on from the newest good checkpoint",
  )
