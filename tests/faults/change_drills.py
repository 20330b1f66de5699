# SPDX-License-Identifier: Apache-2.0
"""Drills of runs whose surroundings change: mesh, batch size; data that is damaged, or no data.

changes: one run goes on on another mesh, or with another batch size. data: files that are missing, cut
off or no text, and faulty lines. bad_steps: batches whose loss is no number.
"""

from __future__ import annotations

import gzip
import itertools
import pathlib
import shutil

import kill_drills
import numpy as np
import runs
from bad_data import MISSING, NOT_FINITE, SPIKE, bad_batches
from damage import DAMAGES
from outcome import NOTHING, Outcome, compared, rows_astray

TOLERANCE = 1e-5  # of the largest parameter of an array: the order of sums differs
MESHES = ((1, 1, 1), (2, 2, 2), (1, 4, 2), (8, 1, 1), (1, 1, 4), (1, 8, 1))


def changes(folder: pathlib.Path, quick: bool) -> list[Outcome]:
  """Goes on on one mesh after the other, and with half and twice the batch."""
  meshes = MESHES[:2] if quick else MESHES
  here = folder / "meshes"
  for number, mesh in enumerate(meshes, start=1):
    given = kill_drills.flags(here, TRAIN_STEPS=4 * number, MESH_SHAPE=mesh)
    code, output = runs.finish(runs.start("train", *given, "--emulate_devices=8"))
    if code:
      raise RuntimeError(output)
  steps = 4 * len(meshes)
  kill_drills.train_here(folder / "undisturbed", TRAIN_STEPS=steps)
  one, other = (runs.arrays(f / "model", steps) for f in (here, folder / "undisturbed"))
  worst = max(
    float(np.abs(one[name] - other[name]).max() / max(np.abs(other[name]).max(), 1e-30))
    for name in other
    if name.startswith("params/")
  )
  astray = rows_astray(here / "model", steps)
  outcomes = [
    Outcome(
      "another mesh, " + ", ".join("x".join(map(str, mesh)) for mesh in meshes),
      len(meshes) - 1,
      len(meshes) - 1,
      "0",
      str(astray),
      f"differs by {worst:.0e}",
      worst <= TOLERANCE and not astray,
    )
  ]
  here = folder / "batches"
  taken, step = 0, 0
  for rows, more in ((8, 4), (4, 4), (16, 4)):
    step, taken = step + more, taken + rows * more
    kill_drills.train_here(here, TRAIN_STEPS=step, BATCH_SIZE=rows)
  astray = rows_astray(here / "model", step, taken)
  what = "another batch size, 8, 4, 16"
  outcomes.append(Outcome(what, 2, 2, "0", str(astray), NOTHING, not astray))
  return outcomes


def data(folder: pathlib.Path, quick: bool) -> list[Outcome]:
  """Trains on faulty text files; what is wrong is named, before MODEL_DIR is made."""
  folder.mkdir(exist_ok=True)
  good = runs.TEXT.read_bytes()
  packed = gzip.compress(good)
  # The file, its content, what is said of it.
  faults: dict[str, tuple[str, bytes | None, str]] = {
    "a file that is not there": ("none.txt", None, "none.txt"),
    "an empty file": ("empty.txt", b"", "empty.txt"),
    "a packed file that is cut off": ("cut.txt.gz", packed[: len(packed) // 2], "cut.txt.gz"),
    "a packed file with one bit flipped": ("flip.txt.gz", _flipped(packed), "flip.txt.gz"),
    "a line that is no UTF-8": ("utf.txt", good + b"\n\n\xff\xfe words\n", "utf.txt"),
    "a line of 10 MB": ("long.txt", good + b"\n\n" + b"x" * 10_000_000 + b"\n", "long.txt"),
    "a line that is no JSON": (
      "lines.jsonl",
      b'{"text": "good words"}\n{"text": \n',
      "lines.jsonl",
    ),
  }
  outcomes = []
  for name, (file, content, said) in faults.items():
    here = folder / file.partition(".")[0]
    here.mkdir()
    if content is not None:
      (here / file).write_bytes(content)
    given = runs.tiny_flags(here, TEXT_FILES=str(here / file))
    code, output, errors = runs.run_here("train", *given)
    told = code == 3 and said in errors and "Traceback" not in output + errors
    made = (here / "model").exists()
    outcomes.append(Outcome(f"data: {name}", 1, int(told), held=told and not made))
  return [*outcomes, _damaged_shards(folder / "shards")]


def _damaged_shards(folder: pathlib.Path) -> Outcome:
  """Trains once, damages the shard that was written, and trains again."""
  kill_drills.train_here(folder / "good", TRAIN_STEPS=2)
  named = 0
  for name, damage in DAMAGES.items():
    here = folder / name.replace(" ", "_")
    shutil.copytree(folder / "good" / "data", here / "data")
    (shard,) = here.rglob("train-*.array_record")
    damage(shard)
    code, output, errors = runs.run_here("train", *runs.tiny_flags(here))
    named += code == 3 and shard.name in errors and "Traceback" not in output + errors
  tries = len(DAMAGES)
  return Outcome(
    "a shard of a cache: deleted, cut off, a bit flipped", tries, named, held=named == tries
  )


def _flipped(content: bytes) -> bytes:
  middle = len(content) // 2
  return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def bad_steps(folder: pathlib.Path, quick: bool) -> list[Outcome]:
  """Trains on batches whose loss is no number; the end is that of a run without them."""
  outcomes = []
  numbers, steps, begun = (8, 10), 12, 7  # a spike can be told once the loss has fallen
  for how, action in itertools.product((NOT_FINITE, SPIKE), ("skip", "go_back")):
    policy = {"TRAIN_STEPS": steps, "CHECKPOINT_PERIOD": 4, "BadSteps.action": action}
    limit = {"BadSteps.max_loss": 8.6} if how == SPIKE else {}
    ends, said = [], []
    for data in (how, MISSING):
      here = folder / f"{how}_{action}_{data}".replace(" ", "_")
      with bad_batches(numbers, data):
        kill_drills.train_here(here, **policy | {"TRAIN_STEPS": begun})
        output = kill_drills.train_here(here, **policy | limit)
      ends.append(here / "model")
      said.append(sum(f"Left out: rows {8 * number} to" in output for number in numbers))
    final, same = compared(*ends, steps)
    found = said[0]
    outcomes.append(
      Outcome(
        f"a loss that is {'NaN' if how == NOT_FINITE else 'a spike'}, BadSteps.action = '{action}'",
        len(numbers),
        found,
        "0" if action == "skip" else "to the checkpoint",
        "the bad ones, named",
        f"{final} that of a run without them" if same else final,
        same and found == len(numbers),
      )
    )
  return outcomes
