# SPDX-License-Identifier: Apache-2.0
"""Every path that a user gives is of a file system or of a store that is known: none becomes a folder."""

from __future__ import annotations

import re

import pytest
import runs

ELSEWHERE = "hdfs://cluster/x"
TINY = f"--gin_file={runs.TINY}"
TRAIN = ("train", TINY, "--dry_run", "--gin.MODEL_DIR='m'", f"--gin.TEXT_FILES={str(runs.TEXT)!r}")
DISTILL = (
  *(*TRAIN, "--gin_file=runs/distill.gin", "--gin.TEACHER_PATH='run'"),
  "--gin.INITIAL_CHECKPOINT_PATH=None",
)
INFER = ("infer", "--gin_file=runs/infer.gin", "--gin.CHECKPOINT_PATH='c'", "--gin.OUTPUT_FILE='o'")
PLAN = ("plan", TINY, "--topology=cpu:8", "--gin.MODEL_DIR='m'", "--gin.TEXT_FILES='t'")
SCORE = ("score", "a.jsonl")

# By macro: a command that reads it.
MACROS = {
  "MODEL_DIR": ("train", TINY, f"--gin.TEXT_FILES={str(runs.TEXT)!r}"),
  "TEXT_FILES": TRAIN,
  "VOCABULARY_PATH": TRAIN,
  "TASK_DATA_DIR": TRAIN,
  "CACHE_DIR": TRAIN,
  "TFDS_DATA_DIR": TRAIN,
  "INITIAL_CHECKPOINT_PATH": TRAIN,
  "TEACHER_PATH": DISTILL,
  "TEACHER_CACHE": DISTILL,
  "CHECKPOINT_PATH": INFER,
  "INPUT_FILE": INFER,
  "OUTPUT_FILE": INFER,
}
OTHERS = {
  "score of a file": ("score", f"{ELSEWHERE}/a.jsonl", "--from=c"),
  "score --from": (*SCORE, f"--from={ELSEWHERE}"),
  "score --to": (*SCORE, "--from=run", f"--to={ELSEWHERE}"),
  "score --vocabulary_path": (*SCORE, "--from=run", f"--vocabulary_path={ELSEWHERE}"),
  "generate --from": ("generate", "a", f"--from={ELSEWHERE}"),
  "convert --from": ("convert", "import", f"--from={ELSEWHERE}", "--to=x"),
  "convert --to": ("convert", "import", "--from=run", f"--to={ELSEWHERE}"),
  "plan --to": (*PLAN, f"--to={ELSEWHERE}"),
  "study --to": ("study", "distill", "--size=test", f"--to={ELSEWHERE}"),
  "checkpoint ls": ("checkpoint", "ls", ELSEWHERE),
  "evaluate.output_dir": (
    *("eval", TINY, "--gin.MODEL_DIR='run'", f"--gin.TEXT_FILES={str(runs.TEXT)!r}"),
    f"--gin.evaluate.output_dir='{ELSEWHERE}'",
  ),
}


def test_each_macro_that_is_a_path_is_looked_at():
  text = "".join(path.read_text() for path in (runs.ROOT / "configs").rglob("*.gin"))
  named = set(re.findall(r"^(\w+(?:_DIR|_PATH|_FILE|_FILES|_CACHE)) = ", text, re.MULTILINE))
  assert named == MACROS.keys()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A folder with a run of a tiny model in it."""
  import stored

  folder = tmp_path_factory.mktemp("paths")
  stored.write_run(folder / "run")
  (folder / "a.jsonl").write_text('{"inputs": "a", "targets": "b"}\n')
  return folder


@pytest.mark.parametrize("name", [*MACROS, *OTHERS])
def test_another_store_is_refused_and_no_folder_is_made(name, run, monkeypatch):
  monkeypatch.chdir(run)
  before = runs.snapshot(run).keys()
  argv = OTHERS.get(name) or (*MACROS[name], f"--gin.{name}='{ELSEWHERE}'")
  code, _, errors = runs.run_here(*argv)
  assert code in (2, 3) and ELSEWHERE in errors and "Traceback" not in errors, errors
  assert runs.snapshot(run).keys() == before


@pytest.mark.parametrize("name", ["plan --to", "study --to"])
def test_what_cannot_be_in_a_bucket_is_refused(name, run, monkeypatch):
  monkeypatch.chdir(run)
  argv = [argument.replace(ELSEWHERE, "gs://bucket/x") for argument in OTHERS[name]]
  code, _, errors = runs.run_here(*argv)
  assert code == 2 and "is not on a file system" in errors
  assert not (run / "gs:").exists()
