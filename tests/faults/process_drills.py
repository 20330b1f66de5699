# SPDX-License-Identifier: Apache-2.0
"""Drills of several processes, on the tests' tiny model and a mesh of eight emulated devices."""

from __future__ import annotations

import pathlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

import runs
from outcome import resumed_from

TOLERANCE = 1e-4  # relative; the order of sums differs
PEER_TIMEOUT = 10
MESH = (2, 2, 2)
ARRANGEMENTS = ((1, 8), (2, 4), (4, 2))  # processes x devices of each


def flags(folder: pathlib.Path, devices: int, **macros: object) -> list[str]:
  """Returns the flags of a run whose processes have so many devices; `macros` win."""
  given = {"MESH_SHAPE": MESH, "CHECKPOINT_PERIOD": 4, "TRAIN_STEPS": 8} | macros
  return [
    *runs.tiny_flags(folder, **given),
    f"--emulate_devices={devices}",
    f"--peer_timeout={PEER_TIMEOUT}",
  ]


def start(count: int, *argv: str, **options) -> list[subprocess.Popen[str]]:
  """Starts a run of `count` processes; of one it knows nothing of others."""
  if count == 1:
    return [runs.start("train", *argv)]
  return runs.start_processes(count, "train", *argv, **options)


def processes(folder: pathlib.Path) -> bool:
  """Trains as 1 x 8, 2 x 4 and 4 x 2, and goes on from the checkpoint of another arrangement."""
  first: dict[int, float] = {}
  held = True
  print(
    "| processes x devices | largest difference of losses | lines a step | goes on from | then |"
  )
  print("|---|---|---|---|---|")
  for number, (count, devices) in enumerate(ARRANGEMENTS):
    here = folder / str(number)
    settings = {"TASK_DATA_DIR": str(folder / "data")}
    ended = runs.finish_all(start(count, *flags(here, devices, **settings)))
    held &= all(code == 0 for code, _ in ended)
    losses = runs.losses(here / "model")
    first = first or losses
    difference = max(abs(losses[step] / first[step] - 1) for step in first)
    text = (here / "model" / "metrics.jsonl").read_text()
    lines = sum('"train/loss"' in line for line in text.splitlines()) / len(losses)
    then = ARRANGEMENTS[(number + 1) % len(ARRANGEMENTS)]
    other = shutil.copytree(here, folder / f"{number}_as_another")
    shutil.rmtree(other / "model" / "checkpoints" / "checkpoint_8")
    (other / "model" / "metrics.jsonl").unlink()
    ended = runs.finish_all(start(then[0], *flags(other, then[1], **settings)))
    resumed = runs.losses(other / "model")
    again = max(abs(resumed[step] / first[step] - 1) for step in resumed)
    went_on = "Resuming from step 4" in ended[0][1] and set(resumed) == {5, 6, 7, 8}
    held &= went_on and lines == 1 and max(difference, again) <= TOLERANCE
    print(
      f"| {count} x {devices} | {difference:.1e} | {lines:g} | step 4, as {then[0]} x {then[1]} "
      f"| {again:.1e} |",
      flush=True,
    )
  print()
  return held


def child_of(process: subprocess.Popen[str]) -> int:
  """Returns the process under the parent that tells why it ended."""
  path = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
  return int(path.read_text().split()[0])


def _kill(process: subprocess.Popen[str]) -> None:
  process.kill()


def _stop(process: subprocess.Popen[str]) -> None:
  subprocess.run(["kill", "-STOP", str(child_of(process))], check=True)


def _terminate(process: subprocess.Popen[str]) -> None:
  process.send_signal(signal.SIGTERM)


# What is done, to which process of four, and what the others end with.
LOSSES: tuple[tuple[str, int, Callable[[subprocess.Popen[str]], None], int], ...] = (
  ("kill -9", 3, _kill, 76),
  ("kill -9", 0, _kill, 76),
  ("kill -STOP", 2, _stop, 76),
  ("kill -TERM", 1, _terminate, 75),
)


def lost(folder: pathlib.Path) -> bool:
  """Loses one of four processes in each way, and runs all again."""
  held = True
  print("| what | to process | the others end with | after, s | errors in a log | goes on from |")
  print("|---|---|---|---|---|---|")
  for what, index, inflict, expected in LOSSES:
    given = flags(folder, 2, TRAIN_STEPS=10**6, LOG_PERIOD=2)
    started = start(4, *given)
    step = runs.last_step(folder / "model")
    others = [process for process in started if process is not started[index]]
    try:
      runs.wait_for_step(others[0], folder / "model", step + 6)
      inflict(started[index])
      moment = time.monotonic()
      ended = [runs.finish(process) for process in others]
      seconds = time.monotonic() - moment
    finally:
      for process in started:
        process.kill()
    codes = sorted({code for code, _ in ended})
    errors = max(output.count("switch_t5: ") for _, output in ended)
    walls = sum("stack trace" in output or "Traceback" in output for _, output in ended)
    goes_on = _goes_on_from(folder)
    held &= codes == [expected] and errors == 1 and not walls and goes_on is not None
    print(f"| {what} | {index} | {codes} | {seconds:.1f} | {errors} | {goes_on} |", flush=True)
  print()
  return held


def _goes_on_from(folder: pathlib.Path) -> str | None:
  """Runs all four processes for two steps more; returns what they went on from."""
  last = max(runs.last_step(folder / "model"), _newest(folder)) + 2
  code, output = runs.finish_all(start(4, *flags(folder, 2, TRAIN_STEPS=last)))[0]
  step = resumed_from(output)
  return f"step {step}" if step and not code else None


def _newest(folder: pathlib.Path) -> int:
  names = [path.name for path in (folder / "model" / "checkpoints").glob("checkpoint_*")]
  return max(int(name.removeprefix("checkpoint_")) for name in names if name[11:].isdecimal())


def unlike(folder: pathlib.Path) -> bool:
  """Starts processes that differ; each pair ends before the first step, and names the key."""
  folder.mkdir(exist_ok=True)
  code = _copy_of_the_code(folder / "code")
  words = _two_vocabularies(folder)
  vocabulary = ["--gin.VOCABULARY_PATH='words.model'"]
  one = {"MESH_SHAPE": (2, 1, 1)}
  tries: list[tuple[str, str, dict, Sequence[str]]] = [
    ("a value in gin", "ModelConfig.d_ff", {"each": {1: ["--gin.ModelConfig.d_ff=64"]}}, ()),
    ("the seed", "SEED", {"each": {1: ["--gin.SEED=1"]}}, ()),
    ("a flag", "--trace_steps", {"each": {1: ["--trace_steps=1:2"]}}, ()),
    ("the code", "the code of switch_t5", {"places": {1: code}}, ()),
    ("the vocabulary", "the vocabulary of", {"places": dict(enumerate(words))}, vocabulary),
    ("devices", "process 0: 1, process 1: 2", {"each": {1: ["--emulate_devices=2"]}}, ()),
  ]
  held = True
  print("| what differs | exit codes | said by each | seconds |\n|---|---|---|---|")
  for what, key, options, more in tries:
    moment = time.monotonic()
    ended = runs.finish_all(start(2, *flags(folder, 1, **one), *more, **options))
    codes = [code for code, _ in ended]
    said = [key in output for _, output in ended]
    held &= codes == [2, 2] and all(said)
    print(f"| {what} | {codes} | {key} | {time.monotonic() - moment:.0f} |", flush=True)
    if not all(said):
      print(ended)
  written = (folder / "model").exists()
  print(f"MODEL_DIR was {'' if written else 'not '}made.\n")
  return held and not written


def _copy_of_the_code(folder: pathlib.Path) -> pathlib.Path:
  """Copies the package, with another comment in it, to where it is imported from first."""
  for source, target in (("switch_t5", ""), ("configs", "configs"), ("data", "assets")):
    shutil.copytree(runs.ROOT / source, folder / "switch_t5" / target, dirs_exist_ok=True)
  with (folder / "switch_t5" / "batch.py").open("a", encoding="utf-8") as file:
    file.write("# another version\n")
  return folder


def _two_vocabularies(folder: pathlib.Path) -> list[pathlib.Path]:
  """Makes two folders with a vocabulary of the same name; one has another piece in it."""
  content = (runs.ROOT / "data" / "embedded.model").read_bytes()
  folders = [folder / "words", folder / "other_words"]
  for place, found in zip(folders, ("here", "hexq"), strict=True):
    place.mkdir()
    text = content.replace(b"\xe2\x96\x81here", b"\xe2\x96\x81" + found.encode(), 1)
    (place / "words.model").write_bytes(text)
  return folders
