# SPDX-License-Identifier: Apache-2.0
"""Every parameter of three published models: path, shape, dtype and logical axes, as committed.

Checkpoints, imports of other formats and layouts depend on all of them. After an intended change,
write the snapshots anew and read their diff:
  python tests/unit/model/test_parameter_snapshots.py
"""

from __future__ import annotations

import difflib
from pathlib import Path

import jax
import pytest

from switch_t5.cli import gin_setup
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.model.definition import define_model

FOLDER = Path(__file__).parent
MODELS = ("switch_base_8", "t5_1_1_small", "switch_c_2048")
PRETRAIN = {
  "MODEL_DIR": "model",
  "MIXTURE_OR_TASK_NAME": "embedded_span_corruption",
  "TASK_FEATURE_LENGTHS": {"inputs": 512, "targets": 114},
  "TRAIN_STEPS": 1,
}


def snapshot(model: str) -> Path:
  return FOLDER / f"{model}_parameters.txt"


def describe(model: str) -> list[str]:
  """Returns a line for each parameter, e.g. `encoder/encoder_norm/scale float32 embed=768`."""
  bindings = [f"{name} = {value!r}" for name, value in PRETRAIN.items()]
  files = [f"models/{model}.gin", "runs/pretrain.gin"]
  train = gin_setup.load(files, bindings, [], CONFIGURABLES).call("train")
  definition = define_model(train.model.with_lengths(train.dataset.encoder_length))
  leaves = jax.tree_util.tree_leaves_with_path(definition.shapes)
  axes = jax.tree.structure(definition.shapes).flatten_up_to(definition.axes)
  lines = []
  for (path, leaf), names in zip(leaves, axes, strict=True):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    sizes = (f"{axis}={size}" for axis, size in zip(names, leaf.shape, strict=True))
    lines.append(" ".join((name, str(leaf.dtype), *sizes)))
  return lines


@pytest.mark.smoke
@pytest.mark.parametrize("model", MODELS)
def test_parameters_are_those_of_the_snapshot(model):
  want, got = snapshot(model).read_text().splitlines(), describe(model)
  names = (snapshot(model).name, f"models/{model}.gin")
  assert got == want, "\n" + "\n".join(difflib.unified_diff(want, got, *names, n=0, lineterm=""))


if __name__ == "__main__":
  for name in MODELS:
    snapshot(name).write_text("\n".join(describe(name)) + "\n")
