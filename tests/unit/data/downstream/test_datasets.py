# SPDX-License-Identifier: Apache-2.0
"""Data sets' own files: what is wrong with them is said with file and line."""

from __future__ import annotations

import json

import pytest

from switch_t5 import errors
from switch_t5.data.downstream import superglue_data

GOOD = {"question": "is it", "passage": "It is.", "idx": 0, "label": True}


def _examples(folder, *rows, split="train"):
  lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
  (folder / superglue_data.BOOLQ.files[split]).write_text("\n".join(lines))
  return superglue_data.BOOLQ.examples(folder, split)


def test_examples_have_numbers_for_labels(tmp_path):
  assert _examples(tmp_path, GOOD, GOOD | {"label": False}) == [
    {"question": "is it", "passage": "It is.", "idx": 0, "label": 1},
    {"question": "is it", "passage": "It is.", "idx": 0, "label": 0},
  ]


@pytest.mark.parametrize(
  ("row", "match"),
  [
    ("{", r"train\.jsonl, line 3(.|\n)*JSON object"),
    ("[1]", r"train\.jsonl, line 3(.|\n)*JSON object"),
    ({"question": "is it", "idx": 0, "label": True}, r"line 3(.|\n)*passage"),
    (GOOD | {"passage": 3}, r"line 3(.|\n)*passage is 3"),
    (GOOD | {"passage": "half \ud800"}, r"line 3(.|\n)*passage"),
    (GOOD | {"label": "maybe"}, r"line 3(.|\n)*'maybe'(.|\n)*False, True"),
    ({key: GOOD[key] for key in GOOD if key != "label"}, r"line 3(.|\n)*label is None"),
  ],
)
def test_a_faulty_line_is_named(tmp_path, row, match):
  with pytest.raises(errors.DataError, match=match):
    _examples(tmp_path, GOOD, "", row)


def test_only_the_test_split_may_lack_labels(tmp_path):
  unlabelled = {key: GOOD[key] for key in GOOD if key != "label"}
  assert _examples(tmp_path, unlabelled, split="test")[0]["label"] == -1


def test_an_empty_split_is_named(tmp_path):
  with pytest.raises(errors.DataError, match=r"train split of BoolQ is empty(.|\n)*train\.jsonl"):
    _examples(tmp_path)


def test_a_file_that_is_no_text_is_named(tmp_path):
  (tmp_path / "train.jsonl").write_bytes(b"\xff\xfe")
  with pytest.raises(errors.DataError, match=r"train\.jsonl"):
    superglue_data.BOOLQ.examples(tmp_path, "train")
