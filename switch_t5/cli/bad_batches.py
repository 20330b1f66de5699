# SPDX-License-Identifier: Apache-2.0
"""`MODEL_DIR/bad_batches.json`: the batches that a run leaves out, with their rows."""

from __future__ import annotations

import json
from collections.abc import Sequence

import jax

from switch_t5.checkpoint.commit import read_text, write_text_durably
from switch_t5.errors import ConfigError
from switch_t5.storage.location import Location
from switch_t5.training.left_out import BadBatch

FILE = "bad_batches.json"


def read(model_dir: Location) -> list[BadBatch]:
  """Returns what the file says; nothing if there is none.

  Raises:
    ConfigError: if it is not as it was written: a run that went on would be another.
  """
  try:
    return [BadBatch(**batch) for batch in json.loads(read_text(model_dir / FILE))]
  except (FileNotFoundError, NotADirectoryError, PermissionError):
    return []  # of what is wrong with MODEL_DIR the run's lock says more
  except (ValueError, TypeError) as error:
    raise ConfigError(
      "The record of batches that are left out cannot be read.",
      value=f"{model_dir / FILE}: {error}",
      rule="it is as a run with BadSteps wrote it",
      remedy="restore the file; or remove it, and bad steps are found anew",
    ) from error


def write(model_dir: Location, batches: Sequence[BadBatch]) -> None:
  """Writes the file, in process 0."""
  if jax.process_index() == 0:
    text = json.dumps([batch._asdict() for batch in batches], indent=1)
    write_text_durably(model_dir / FILE, text + "\n")
