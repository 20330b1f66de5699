# SPDX-License-Identifier: Apache-2.0
"""Runs every command of the pages as a new user would type it: `scripts/check_docs.sh [PAGE ...]`.

Each page has a folder of its own: a copy of the tree, and what the page assumes is there. Its
commands run in order, each in a shell with the virtual environment activated. Training is shortened
(`pages.SHORT_RUN`); nothing is left out but what `pages.NOT_RUN` lists. Prints what became of each
command; exits with 1 if one failed, or is neither run nor listed.
"""

from __future__ import annotations

import gzip
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import c4_form
import pages
import superglue_form
from pages import ROOT, Command

TIMEOUT = 600  # seconds; a command takes some twenty
_LEFT_OUT = shutil.ignore_patterns(".git", ".venv-*", "*_cache", "__pycache__", "runs", "build")
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def write_texts(folder: pathlib.Path) -> None:
  """Writes the reader's own text: my/, and pairs/."""
  documents = c4_form.documents("text", 400)
  (folder / "my").mkdir()
  (folder / "my" / "news.txt").write_text("\n\n".join(documents[:200]), encoding="utf-8")
  with gzip.open(folder / "my" / "mail.jsonl.gz", "wt", encoding="utf-8") as file:
    file.writelines(json.dumps({"text": text}) + "\n" for text in documents[200:])
  (folder / "pairs").mkdir()
  for split in ("train", "validation"):
    lines = (f"How much is {i} and {i}?\t{2 * i}\n" for i in range(60))
    (folder / "pairs" / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")


def prepare_c4(folder: pathlib.Path) -> None:
  """Prepares a small C4 where it is read, and a vocabulary in place of T5's."""
  data_sets = folder / "tensorflow_datasets"
  # In a process of its own: TensorFlow talks.
  prepare = (
    "import pathlib, sys, c4_form; c4_form.prepare("
    "pathlib.Path(sys.argv[1]), 'en', '2.2.0', {'train': 200, 'validation': 40})"
  )
  subprocess.run([sys.executable, "-c", prepare, data_sets], check=True, capture_output=True)
  (folder / "mine").mkdir()
  (folder / "mine" / data_sets.name).symlink_to(data_sets)
  shutil.copy(ROOT / "data" / "embedded.model", folder / "sentencepiece.model")


def write_superglue(folder: pathlib.Path) -> None:
  """Writes a few examples of SuperGLUE in its published form."""
  superglue_form.write(folder / "superglue")


# What a page assumes is there.
PREPARED = {
  "README.md": write_texts,
  "your-own-text.md": write_texts,
  "c4-and-mc4.md": prepare_c4,
  "fine-tune.md": write_superglue,
  "distill.md": write_superglue,
}


def prepare(page: pathlib.Path, folder: pathlib.Path) -> None:
  """Makes the folder that a page's reader is in."""
  shutil.copytree(ROOT, folder, ignore=_LEFT_OUT)
  # The pages name one version; the scripts take the one that this runs in.
  for name in {".venv-3.12", f".venv-{_PYTHON}"}:
    (folder / name).symlink_to(sys.prefix)
  (folder / pages.SHORT_RUN_FILE).write_text(pages.SHORT_RUN)
  (folder / pages.SHORT_STUDENT_FILE).write_text(pages.SHORT_STUDENT)
  for name, text in pages.files(page).items():
    (folder / name).write_text(text)
  if page.name in PREPARED:
    PREPARED[page.name](folder)


def run(command: Command, folder: pathlib.Path, home: pathlib.Path) -> tuple[bool, str]:
  """Runs a command; returns whether it succeeded, and what it printed."""
  settings = {
    "HOME": str(home),
    "XDG_CACHE_HOME": str(home / ".cache"),
    "JAX_PLATFORMS": "cpu",
    # Programs compile in a third of the time, and those of one page are found by the next.
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "PYTHON": sys._base_executable,
  }
  shell = f"source .venv-{_PYTHON}/bin/activate\n{command.shortened()}"
  process = subprocess.Popen(
    ["bash", "-c", shell],
    cwd=folder,
    env=os.environ | settings,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    stdin=subprocess.DEVNULL,
    text=True,
    start_new_session=True,
  )
  try:
    output, _ = process.communicate(timeout=TIMEOUT)
  except subprocess.TimeoutExpired:
    os.killpg(process.pid, signal.SIGKILL)  # the shell, and what it waits for
    output, _ = process.communicate()
    return False, f"{output}\nIt did not end in {TIMEOUT} s."
  return process.returncode == 0, f"{output}\nexit code {process.returncode}"


def check(page: pathlib.Path, folder: pathlib.Path, home: pathlib.Path) -> int:
  """Runs a page's commands and prints a row for each; returns how many failed."""
  prepare(page, folder)
  failed = 0
  for command in pages.commands(page):
    started, output = time.perf_counter(), ""
    if reason := command.not_run_because():
      verdict = f"parsed only ({reason})"
    elif not command.is_run():
      verdict = "FAILED: neither run nor listed in tests/pages.py"
    else:
      succeeded, output = run(command, folder, home)
      verdict = "ran" if succeeded else "FAILED"
    seconds = time.perf_counter() - started
    text = " ".join(command.text.split())
    print(f"{command.place:<36} {text[:60]:<60} {seconds:>6.1f} s  {verdict}", flush=True)
    if verdict.startswith("FAILED"):
      failed += 1
      print(f"  {command.shortened()}\n{output[-4000:]}", flush=True)
  return failed


def main() -> int:
  """Checks the pages named on the command line, or all; returns the exit code."""
  chosen = [pathlib.Path(name).resolve() for name in sys.argv[1:]] or pages.PAGES
  started = time.perf_counter()
  with tempfile.TemporaryDirectory(prefix="switch_t5-docs-") as scratch:
    home = pathlib.Path(scratch) / "home"
    home.mkdir()
    failed = sum(check(page, pathlib.Path(scratch) / page.stem, home) for page in chosen)
  print(f"{failed} failed; {time.perf_counter() - started:.0f} s.")
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main())
