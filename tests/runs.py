# SPDX-License-Identifier: Apache-2.0
"""Runs of the command line in tests and drills, and what they are compared by."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from unittest import mock

import numpy as np
import orbax.checkpoint as ocp

from switch_t5.cli import main
from switch_t5.metrics.writer import METRICS_FILE, read_metrics

ROOT = pathlib.Path(__file__).parents[1]
TINY = ROOT / "tests" / "tiny.gin"
TEXT = ROOT / "data" / "fixture.txt"
TIMEOUT = 300  # seconds; a run takes a few


def tiny_flags(folder: pathlib.Path, **macros: object) -> list[str]:
  """Returns the flags of a tiny run into `folder`/model; `macros` win."""
  given = {
    "MODEL_DIR": str(folder / "model"),
    "TEXT_FILES": str(TEXT),
    "TASK_DATA_DIR": str(folder / "data"),
  } | macros
  return [f"--gin_file={TINY}", *(f"--gin.{name}={value!r}" for name, value in given.items())]


def run_here(*argv: str) -> tuple[int, str, str]:
  """Runs `switch_t5 ARGV` in this process; returns exit code, standard output and error."""
  output, errors = io.StringIO(), io.StringIO()
  with (
    contextlib.redirect_stdout(output),
    contextlib.redirect_stderr(errors),
    mock.patch.dict(os.environ),  # a mode may emulate other devices
  ):
    code = main.main(argv)
  return code, output.getvalue(), errors.getvalue()


def start(
  *argv: str, cwd: pathlib.Path = ROOT, before: Sequence[str] = ()
) -> subprocess.Popen[str]:
  """Starts `switch_t5 ARGV`, as the last words of a command if `before` begins one; both streams go
  to one pipe.
  """
  path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
  return subprocess.Popen(
    [*before, sys.executable, "-m", "switch_t5.cli.main", *argv],
    cwd=cwd,
    env=os.environ | {"PYTHONPATH": path},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(process: subprocess.Popen[str], timeout: float = TIMEOUT) -> tuple[int, str]:
  """Returns the exit code and what was printed; kills what does not end."""
  try:
    output, _ = process.communicate(timeout=timeout)
  finally:
    process.kill()
  return process.returncode, output


def start_processes(
  count: int,
  *argv: str,
  each: Mapping[int, Sequence[str]] | None = None,
  places: Mapping[int, pathlib.Path] | None = None,
  cwd: pathlib.Path = ROOT,
) -> list[subprocess.Popen[str]]:
  """Starts `switch_t5 ARGV` as processes of one run; some have flags or a folder of their own."""
  given = [*argv, f"--coordinator_address={free_address()}", f"--process_count={count}"]
  flags, folders = each or {}, places or {}
  return [
    start(*given, f"--process_index={i}", *flags.get(i, ()), cwd=folders.get(i, cwd))
    for i in range(count)
  ]


def finish_all(
  processes: Sequence[subprocess.Popen[str]], timeout: float = TIMEOUT
) -> list[tuple[int, str]]:
  """Returns what `finish` does of each; kills all if one does not end."""
  try:
    return [finish(process, timeout) for process in processes]
  finally:
    for process in processes:
      process.kill()


def on_two_processes(*argv: str, cwd: pathlib.Path = ROOT) -> list[str]:
  """Runs `switch_t5 ARGV` as two processes, which must end well; returns what each printed."""
  ended = finish_all(start_processes(2, *argv, cwd=cwd))
  assert [code for code, _ in ended] == [0, 0], ended
  return [output for _, output in ended]


def free_address() -> str:
  """Returns localhost with a port that nothing uses."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return f"localhost:{free.getsockname()[1]}"


def wait_for_step(process: subprocess.Popen[str], model_dir: pathlib.Path, step: int) -> None:
  """Returns once metrics.jsonl has the step; the process must still run."""
  deadline = time.monotonic() + TIMEOUT
  while last_step(model_dir) < step:
    assert process.poll() is None, f"It ended before step {step}:\n{process.stdout.read()}"
    assert time.monotonic() < deadline, f"Step {step} was not reached."
    time.sleep(0.005)


def last_step(model_dir: pathlib.Path) -> int:
  """Returns the last step that was logged, 0 if there is none."""
  path = model_dir / METRICS_FILE
  rows = read_metrics(path) if path.exists() else []
  return int(rows[-1]["step"]) if rows else 0


def losses(model_dir: pathlib.Path) -> dict[int, float]:
  """Returns train/loss by step."""
  rows = read_metrics(model_dir / METRICS_FILE)
  return {int(row["step"]): row["train/loss"] for row in rows if "train/loss" in row}


def arrays(model_dir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
  """Returns every array of a checkpoint, read with Orbax alone."""
  path = model_dir.absolute() / "checkpoints" / f"checkpoint_{step}"
  handler = ocp.PyTreeCheckpointHandler()
  tree = handler.metadata(path).tree
  numpy = ocp.RestoreArgs(restore_type=np.ndarray)
  args = ocp.args.PyTreeRestore(restore_args=_map(lambda _: numpy, tree))
  restored = handler.restore(path, args=args)
  return {"/".join(key): value for key, value in _flatten(restored)}


def differing(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> list[str]:
  """Returns the names of arrays that are not the same bit for bit."""
  return [
    name
    for name in sorted(one.keys() | other.keys())
    if name not in one or name not in other or one[name].tobytes() != other[name].tobytes()
  ]


def snapshot(folder: pathlib.Path) -> dict[str, bytes | None]:
  """Returns every file and folder with its content; the lock's note of its holder left out."""
  return {
    str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
    for path in sorted(folder.rglob("*"))
    if path.name != "run.lock"
  }


def _map(function, tree):
  if isinstance(tree, dict):
    return {name: _map(function, value) for name, value in tree.items()}
  return function(tree)


def _flatten(tree, prefix: Sequence[str] = ()):
  if isinstance(tree, dict):
    for name, value in tree.items():
      yield from _flatten(value, (*prefix, name))
  else:
    yield tuple(prefix), tree
