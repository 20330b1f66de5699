# SPDX-License-Identifier: Apache-2.0
"""Text, vocabulary, caches, checkpoints and answers in object storage: as on a disk."""

from __future__ import annotations

import pathlib

import pytest
import runs
import stored

from switch_t5.data.vocabulary import embedded_vocabulary_path
from switch_t5.interop.huggingface import TOKENIZER
from switch_t5.storage import objects, transfers
from switch_t5.storage.location import location

STEPS = {"TRAIN_STEPS": 3, "EVAL_PERIOD": 3, "CHECKPOINT_PERIOD": 3}


@pytest.fixture(autouse=True)
def copies(tmp_path, monkeypatch):
  """A home without copies."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


def run(*argv: str) -> str:
  """Runs a command that must end well; returns what it printed."""
  code, output, errors = runs.run_here(*argv)
  assert code == 0, errors
  return output


def test_a_run_on_a_bucket_s_data_has_the_losses_of_one_on_a_disk(gs_prefix, tmp_path):
  run("train", *runs.tiny_flags(tmp_path / "disk", **STEPS))
  transfers.upload(runs.TEXT, location(f"{gs_prefix}/text/a.txt"))
  transfers.upload(pathlib.Path(embedded_vocabulary_path()), location(f"{gs_prefix}/my.model"))
  places = {
    "TEXT_FILES": f"{gs_prefix}/text/*.txt",
    "VOCABULARY_PATH": f"{gs_prefix}/my.model",
    "TASK_DATA_DIR": f"{gs_prefix}/data",
  }
  flags = runs.tiny_flags(tmp_path / "bucket", **STEPS | places)
  assert "not yet those of --job=0/2" in run("cache", *flags, "--job=1/2")
  assert f"{gs_prefix}/data/text_span_corruption" in run("cache", *flags, "--job=0/2")
  run("train", *flags)
  losses = [runs.losses(tmp_path / name / "model") for name in ("disk", "bucket")]
  assert losses[0] == losses[1] and len(losses[0]) == 3


def test_a_checkpoint_in_a_bucket_is_asked_as_one_on_a_disk(gs_prefix, tmp_path):
  stored.write_run(tmp_path / "disk" / "run")
  for path in (tmp_path / "disk").rglob("*"):
    if path.is_file():
      transfers.upload(path, location(f"{gs_prefix}/{path.relative_to(tmp_path / 'disk')}"))
  assert objects.exists(location(f"{gs_prefix}/run/{TOKENIZER}"))
  texts, pairs = "".join(f"number {n}\n" for n in range(6)), '{"inputs": "a", "targets": "b"}\n'
  for folder in (str(tmp_path / "disk"), gs_prefix):
    for name, text in (("in.txt", texts), ("pairs.jsonl", pairs)):
      (tmp_path / name).write_text(text)
      if folder == gs_prefix:
        transfers.upload(tmp_path / name, location(f"{folder}/{name}"))
      else:
        (tmp_path / "disk" / name).write_text(text)
    macros = {
      "CHECKPOINT_PATH": f"{folder}/run",
      "INPUT_FILE": f"{folder}/in.txt",
      "OUTPUT_FILE": f"{folder}/out.jsonl",
      "DecodingConfig.max_tokens": 2,
      "BATCH_SIZE": 2,
    }
    given = [f"--gin.{name}={value!r}" for name, value in macros.items()]
    assert "all 6 lines" in run("infer", "--gin_file=runs/infer.gin", *given)
    run("score", f"{folder}/pairs.jsonl", f"--from={folder}/run", f"--to={folder}/scores.jsonl")
  for name in ("out.jsonl", "scores.jsonl"):
    there = objects.read(location(f"{gs_prefix}/{name}"))
    assert there == (tmp_path / "disk" / name).read_bytes()
