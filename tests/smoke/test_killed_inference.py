# SPDX-License-Identifier: Apache-2.0
"""A run of `infer` that is killed goes on: each line is written once."""

from __future__ import annotations

import json
import time

import pytest
import runs
import stored

NUM_TEXTS = 1200


@pytest.mark.smoke
def test_a_killed_run_goes_on_and_writes_each_line_once(tmp_path):
  model_dir = stored.write_run(tmp_path / "model")
  (tmp_path / "in.txt").write_text("".join(f"text {n}\n" for n in range(NUM_TEXTS)))
  given = {
    "CHECKPOINT_PATH": str(model_dir),
    "INPUT_FILE": str(tmp_path / "in.txt"),
    "BATCH_SIZE": 4,
    "DecodingConfig.max_tokens": 2,
  }
  flags = ["infer", "--gin_file=runs/infer.gin"]
  flags += [f"--gin.{name}={value!r}" for name, value in given.items()]
  output = tmp_path / "out.jsonl"
  killed = [*flags, f"--gin.OUTPUT_FILE={str(output)!r}"]
  process = runs.start(*killed)
  deadline = time.monotonic() + runs.TIMEOUT
  while not output.exists() or not output.stat().st_size:
    assert process.poll() is None, process.stdout.read()
    assert time.monotonic() < deadline
    time.sleep(0.001)
  process.kill()
  runs.finish(process)
  with output.open("ab") as file:  # as if it had been killed while it wrote
    file.write(b'{"index": ')
  left = output.read_bytes().count(b"\n")
  assert 0 < left < NUM_TEXTS
  code, said, errors = runs.run_here(*killed)
  assert code == 0, errors
  assert f"{left:,} of {NUM_TEXTS:,} lines are there; going on." in said
  rows = [json.loads(line) for line in output.read_text().splitlines()]
  assert [row["index"] for row in rows] == list(range(NUM_TEXTS))
  assert [row["inputs"] for row in rows] == [f"text {n}" for n in range(NUM_TEXTS)]
