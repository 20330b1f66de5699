# SPDX-License-Identifier: Apache-2.0
"""The arrays of a state by name, and how two states differ."""

from __future__ import annotations

from typing import Any

import jax

from switch_t5.errors import CheckpointError
from switch_t5.types import PyTree

_MOST_LINES = 20


def leaves_by_path(state: PyTree) -> dict[tuple[str, ...], Any]:
  """Returns the leaves of any PyTree by their path, e.g. ("params", "encoder", "kernel")."""
  leaves = jax.tree_util.tree_leaves_with_path(state)
  named = {
    tuple(jax.tree_util.keystr((key,), simple=True) for key in path): leaf for path, leaf in leaves
  }
  if len(named) != len(leaves):
    raise ValueError("two leaves of the state have the same path")
  return named


def nested(leaves: dict[tuple[str, ...], Any]) -> dict[str, Any]:
  """Returns nested dictionaries: what is stored does not depend on the classes of the state."""
  tree: dict[str, Any] = {}
  for path, leaf in leaves.items():
    node = tree
    for name in path[:-1]:
      node = node.setdefault(name, {})
    node[path[-1]] = leaf
  return tree


def array_types(leaves: dict[tuple[str, ...], Any]) -> dict[str, str]:
  """Returns dtype and shape by name: `{"params/encoder/kernel": "float32[512,64]"}`."""
  return {
    "/".join(path): f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
    for path, leaf in leaves.items()
  }


def check_same_arrays(
  saved: dict[str, str], wanted: dict[str, str], where: str, remedy: str | None = None
) -> None:
  """Checks that a checkpoint holds the arrays that the run has.

  Args:
    saved: `array_types` of the checkpoint.
    wanted: `array_types` of the run.
    where: the checkpoint, for the message.
    remedy: what to do if it does not; None: what one does whose own checkpoint it is.

  Raises:
    CheckpointError: with a line for each array that is missing, extra or different.
  """
  lines = [f"- {name}  {saved[name]}" for name in sorted(saved.keys() - wanted.keys())]
  lines += [f"+ {name}  {wanted[name]}" for name in sorted(wanted.keys() - saved.keys())]
  lines += [
    f"~ {name}  {saved[name]} -> {wanted[name]}"
    for name in sorted(saved.keys() & wanted.keys())
    if saved[name] != wanted[name]
  ]
  if not lines:
    return
  # Parameters first: what differs in the optimizer follows from them.
  lines.sort(key=lambda line: not line[2:].startswith("params/"))
  own_remedy = (
    "run with the configuration saved beside the checkpoint (config.gin), or choose another "
    "MODEL_DIR to begin anew"
  )
  if not any(name.startswith("opt_state/") for name in saved):
    own_remedy = (
      "it has no optimizer state, as one that was imported: choose another MODEL_DIR, and begin "
      f"with INITIAL_CHECKPOINT_PATH = '{where}'"
    )
  raise CheckpointError(
    "The checkpoint is of another model or optimizer "
    "(- only in the checkpoint, + only in this run, ~ checkpoint -> this run):\n  "
    + indented(lines),
    value=where,
    rule="every array of the run is in the checkpoint, with the same shape and dtype",
    remedy=remedy or own_remedy,
  )


def indented(lines: list[str]) -> str:
  """Returns the lines of a message, below its first; of many only the first ones."""
  if len(lines) > _MOST_LINES:
    rest = len(lines) - _MOST_LINES + 1
    lines = [*lines[: _MOST_LINES - 1], f"... and {rest} more"]
  return "\n  ".join(lines)
