# SPDX-License-Identifier: Apache-2.0
"""OUTPUT_FILE in object storage: each line once, however often and wherever a run is stopped."""

from __future__ import annotations

import json

import pytest

from switch_t5.cli import infer_store
from switch_t5.cli.infer_store import StoredOutput
from switch_t5.errors import DataError
from switch_t5.storage import objects
from switch_t5.storage.location import location

NUMBERS = range(4, 9)
CONTENTS = {"CHECKPOINT_PATH": "model"}


def rows(*numbers):
  return [{"index": number, "prediction": f"answer é {number}"} for number in numbers]


def opened(path, **changes):
  return StoredOutput(path, NUMBERS, CONTENTS | changes)


def written(path):
  return [json.loads(line)["index"] for line in objects.read(path).decode().splitlines()]


def names(path):
  return sorted(objects.sizes(path.parent))


@pytest.fixture
def path(gs_prefix):
  return location(f"{gs_prefix}/out.jsonl")


def test_a_run_goes_on_after_its_last_part(remote_prefix):
  path = location(f"{remote_prefix}/out.jsonl")
  assert infer_store.lines_done(path, NUMBERS) == 0
  with opened(path) as output:
    output.append(rows(4, 5))
    assert output.done == 2
  assert infer_store.lines_done(path, NUMBERS) == 2
  with opened(path) as output:
    assert output.done == 2
    output.append(rows(6))
    assert not objects.exists(path)
    output.append(rows(7, 8))
  assert written(path) == list(NUMBERS)
  assert names(path) == ["out.jsonl", "out.jsonl.run.json"]
  with opened(path) as output:
    assert output.done == 5


def test_a_run_that_was_killed_between_joining_and_deleting_ends_it(path):
  with opened(path) as output:
    output.append(rows(4, 5, 6, 7, 8))
  part = path.with_name("out.jsonl.parts") / "000000000004-000000000009.jsonl"
  objects.write(part, b"left behind")
  with opened(path) as output:
    assert output.done == 5
  assert written(path) == list(NUMBERS) and not objects.exists(part)


def test_parts_of_two_runs_of_one_job_give_each_line_once(path):
  with opened(path) as one, opened(path) as other:
    one.append(rows(4))
    other.append(rows(4, 5, 6))
    one.append(rows(5, 6, 7))
  with opened(path) as output:
    assert output.done == 3
    output.append(rows(7, 8))
  assert written(path) == list(NUMBERS)


def test_a_run_with_other_inputs_is_refused(path):
  with opened(path) as output:
    output.append(rows(4))
  with (
    pytest.raises(DataError, match="CHECKPOINT_PATH: model, now other"),
    opened(path, CHECKPOINT_PATH="other"),
  ):
    pass


def test_what_no_run_wrote_is_not_overwritten(path):
  objects.write(path, b"mine\n")
  with pytest.raises(DataError, match="not of such a run"), opened(path):
    pass
  assert objects.read(path) == b"mine\n"


def test_a_job_without_lines_has_an_empty_file(path):
  with StoredOutput(path, range(3, 3), CONTENTS) as output:
    assert output.done == 0
  assert objects.read(path) == b""
