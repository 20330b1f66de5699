# SPDX-License-Identifier: Apache-2.0
"""What T5X, seqio and Flaxformer users write in gin files, and what is written here instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable

from switch_t5.errors import ConfigError

_NO_IMPORTS = "a gin file is data: it holds NAME = VALUE, selector.parameter = VALUE and include"

# (pattern of the import line, what to do instead)
_IMPORTS = (
  (r"from __gin__ import", "Remove it: `switch_t5 config --list` names what gin may configure."),
  (
    r"import __main__ as (train|eval|infer)_script",
    "Remove it, and write `{0}.` for `{0}_script.`.",
  ),
  (r"(?:from|import) t5x\b", "Remove it: `switch_t5 config --list` names what replaces T5X's."),
  (
    r"(?:from|import) flaxformer\b",
    "Remove it: the layers are built in; include a file of models/ and set its macros.",
  ),
  (
    r"(?:from|import) seqio\b",
    "Remove it, and name the task: MIXTURE_OR_TASK_NAME = 'my_task'.",
  ),
  (r"(?:from|import) (?:t5|t5\.\S+|tensorflow\S*)\b", "Remove it: the tasks here need no `t5`."),
)

# (pattern of a selector, what to write instead)
_SELECTORS = (
  (r"(train_script|precompile)\b", "Write `train`, without `train_script.`."),
  (r"eval_script\b", "Write `evaluate`, without `eval_script.`."),
  (r"(trainer|trainer_lib|moe_trainer)\.", "Set NUM_MICROBATCHES, or the parameters of `train`."),
  (r"(Moe)?PjitPartitioner\b|partitioning\.", "Set MESH_SHAPE = (data, expert, model)."),
  (
    r"(utils\.)?(Save)?CheckpointConfig\b",
    "Set CHECKPOINT_PERIOD, and MODEL_DIR for where they are written.",
  ),
  (r"(utils\.)?RestoreCheckpointConfig\b", "Set MODEL_DIR: a run goes on from there."),
  (
    r"(utils\.)?DatasetConfig\b",
    "Set MIXTURE_OR_TASK_NAME, TASK_FEATURE_LENGTHS and BATCH_SIZE.",
  ),
  (r"seqio\b|.*get_mixture_or_task", "Set MIXTURE_OR_TASK_NAME."),
  (r"(models\.|moe_models\.|network\.|t5_architecture\.|moe_)", "Include a file of models/."),
  (
    r"(gin\.)?(singleton|constant|macro)\b",
    "gin's built-ins are closed: use NAME = VALUE and %NAME.",
  ),
)


def import_error(line: str, place: str) -> ConfigError:
  """Returns the error for an import line in a gin file."""
  remedy = (
    "Remove it. Modules with tasks of your own are given on the command line: --import=MODULE."
  )
  for pattern, advice in _IMPORTS:
    if match := re.match(pattern, line):
      remedy = advice.format(*match.groups())
      break
  return ConfigError(
    f"{place}: a gin file cannot import.", value=line, rule=_NO_IMPORTS, remedy=remedy
  )


def refuse_include(name: str, place: str) -> None:
  """Raises if an include names a file of T5X or Flaxformer."""
  if re.match(r"(t5x|flaxformer|t5|seqio)/", name):
    raise ConfigError(
      f"{place}: this file belongs to another project.",
      value=f"include '{name}'",
      remedy="Include one of ours: models/switch_demo.gin, runs/pretrain.gin",
    )


def selector_remedy(selector: str, known: Collection[str]) -> str:
  """Returns what to write instead of a selector that is not in `known`."""
  last = selector.rpartition(".")[2]
  if last in known:
    return f"Write `{last}`, without the module."
  for pattern, advice in _SELECTORS:
    if re.match(pattern, selector):
      return advice
  return f"{suggest_close(selector, known)} `switch_t5 config --list` prints all.".strip()


def suggest_close(name: str, known: Iterable[str]) -> str:
  """Returns `Did you mean ...?`, or nothing if no known name is close."""
  close = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.6)
  return f"Did you mean {' or '.join(close)}?" if close else ""
