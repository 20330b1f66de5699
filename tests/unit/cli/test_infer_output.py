# SPDX-License-Identifier: Apache-2.0
"""OUTPUT_FILE: each line once, only after its own, and for one run at a time."""

from __future__ import annotations

import errno
import json
import os

import pytest

from switch_t5.cli.infer_output import OutputFile, lines_done, part_of, part_path
from switch_t5.errors import ConfigError, DataError

NUMBERS = range(4, 9)
CONTENTS = {"CHECKPOINT_PATH": "model", "DecodingConfig.num_beams": 1}


def rows(numbers):
  return [{"index": number, "prediction": f"answer é {number}"} for number in numbers]


def opened(tmp_path, **changes):
  return OutputFile(tmp_path / "deep" / "out.jsonl", NUMBERS, CONTENTS | changes)


def written(tmp_path):
  text = (tmp_path / "deep" / "out.jsonl").read_text("utf-8")
  return [json.loads(line)["index"] for line in text.splitlines()]


@pytest.mark.parametrize("count", [0, 1, 5, 17])
@pytest.mark.parametrize("jobs", [1, 3, 8])
def test_the_jobs_parts_follow_each_other_and_are_all(count, jobs):
  parts = [part_of(count, job, jobs) for job in range(jobs)]
  assert [number for part in parts for number in part] == list(range(count))
  assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_jobs_file_has_its_number():
  assert str(part_path("out.jsonl", 0, 1)) == "out.jsonl"
  assert str(part_path("out.jsonl", 1, 4)) == "out.jsonl-00001-of-00004"


def test_a_run_goes_on_after_the_last_line(tmp_path):
  with opened(tmp_path) as output:
    assert output.done == 0
    output.append(rows([4, 5]))
  with opened(tmp_path) as output:
    assert output.done == 2
    output.append(rows([6, 7, 8]))
  with opened(tmp_path) as output:
    assert output.done == 5
  assert written(tmp_path) == list(NUMBERS)


@pytest.mark.parametrize("torn", [b'{"index": 6, "pre', b"\xc3", b"x" * 200_000])
@pytest.mark.parametrize("whole", [[], [4, 5]])
def test_a_line_that_was_not_finished_is_written_anew(tmp_path, torn, whole):
  with opened(tmp_path) as output:
    output.append(rows(whole))
  with (tmp_path / "deep" / "out.jsonl").open("ab") as file:
    file.write(torn)
  assert lines_done(tmp_path / "deep" / "out.jsonl", NUMBERS) == len(whole)
  with opened(tmp_path) as output:
    assert output.done == len(whole)
    output.append(rows(NUMBERS[len(whole) :]))
  assert written(tmp_path) == list(NUMBERS)


def test_lines_may_be_longer_than_what_is_read_at_a_time(tmp_path):
  with opened(tmp_path) as output:
    output.append([{"index": 4}, {"prediction": "x" * 200_000, "index": 5}])
  with opened(tmp_path) as output:
    assert output.done == 2


def test_a_run_with_other_inputs_is_refused_and_what_differs_is_named(tmp_path):
  with opened(tmp_path) as output:
    output.append(rows([4]))
  with (
    pytest.raises(DataError, match="another run") as raised,
    opened(tmp_path, **{"DecodingConfig.num_beams": 4}),
  ):
    pass
  assert "DecodingConfig.num_beams: 1, now 4" in str(raised.value)
  assert "restore DecodingConfig.num_beams, or choose another OUTPUT_FILE" in str(raised.value)
  assert "CHECKPOINT_PATH" not in str(raised.value)
  assert written(tmp_path) == [4]


@pytest.mark.parametrize("record", [None, "", "[]", "{"])
def test_a_file_of_others_is_left_alone(tmp_path, record):
  path = tmp_path / "out.jsonl"
  path.write_text("mine\n")
  if record is not None:
    (tmp_path / "out.jsonl.run.json").write_text(record)
  with pytest.raises(DataError, match="not of such a run"), OutputFile(path, NUMBERS, CONTENTS):
    pass
  assert path.read_text() == "mine\n"


@pytest.mark.parametrize("line", ["no JSON", "[]", "{}", '{"index": 3}', '{"index": true}'])
def test_a_last_line_of_no_such_run_is_refused(tmp_path, line):
  with opened(tmp_path):
    pass
  (tmp_path / "deep" / "out.jsonl").write_text(f"{line}\n")
  with pytest.raises(DataError, match="its last line"), opened(tmp_path):
    pass


def test_one_run_at_a_time_writes_it(tmp_path):
  with opened(tmp_path), pytest.raises(ConfigError, match="Another run"), opened(tmp_path):
    pass
  with opened(tmp_path):
    pass


def test_a_file_that_cannot_be_made_is_explained(tmp_path):
  (tmp_path / "deep").write_text("a file, not a folder")
  with pytest.raises(ConfigError, match="cannot be written"), opened(tmp_path):
    pass


def test_a_full_disk_keeps_what_was_written(tmp_path, monkeypatch):
  def full(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  with opened(tmp_path) as output:
    output.append(rows([4]))
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DataError, match="No space left"):
      output.append(rows([5]))
    monkeypatch.undo()
  with opened(tmp_path) as output:
    assert output.done == 1
