# SPDX-License-Identifier: Apache-2.0
"""A whole T5X state dict in safetensors: `target.encoder.layers_0.attention.query.kernel`, ..."""

from __future__ import annotations

import pathlib

from switch_t5.interop import safetensors_files, untrusted
from switch_t5.interop.checkpoint import PARAMETERS, Progress, StoredCheckpoint

FORMAT = "safetensors, T5X's names"


def open_t5x_safetensors(path: pathlib.Path) -> StoredCheckpoint:
  """Opens a file, or a folder with one or several, whose arrays have T5X's names."""
  stored = safetensors_files.open_files(path)
  arrays = {name.replace(".", "/"): array for name, array in stored.items()}
  if strange := [name for name in arrays if not name.startswith((PARAMETERS, "state/"))]:
    raise untrusted.refuse(
      path,
      f"the array {strange[0]}",
      rule="names are T5X's, `target.encoder. ...`; those of Hugging Face need its config.json",
    )
  return StoredCheckpoint(path, FORMAT, arrays)


def write_t5x_safetensors(
  checkpoint: StoredCheckpoint, directory: pathlib.Path, progress: Progress
) -> None:
  """Writes parameters and, if it is there, the optimizer's state."""
  arrays = {name.replace("/", "."): array for name, array in checkpoint.arrays.items()}
  safetensors_files.write_files(arrays, directory, progress)
