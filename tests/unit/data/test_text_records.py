# SPDX-License-Identifier: Apache-2.0
"""Texts and records, a line each, and what is wrong with a line."""

from __future__ import annotations

import gzip

import pytest

from switch_t5.data.text_records import read_records, read_texts
from switch_t5.errors import DataError


def write(path, content):
  with gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb") as file:
    file.write(content if isinstance(content, bytes) else content.encode())
  return str(path)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a"])
def test_every_line_of_a_text_is_one_blank_ones_too(tmp_path, name):
  path = write(tmp_path / name, "\ufeffone\r\n\n two \x0b\u2028\nthree")
  assert list(read_texts(path, "inputs")) == ["one", "", " two \x0b\u2028", "three"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_json_lines_give_the_keys_that_are_asked_for(tmp_path, name):
  path = write(tmp_path / name, '{"inputs": "a", "targets": "b", "n": 1}\n\n{"inputs": "c\\n"}\n')
  assert list(read_texts(path, "inputs")) == ["a", "c\n"]
  records = read_records(path, ("inputs", "targets"))
  assert next(records) == {"inputs": "a", "targets": "b"}
  with pytest.raises(DataError, match='no "targets"') as raised:
    next(records)
  assert f"{path}, line 3" in str(raised.value)


WRONG = {
  "empty": ("a.txt", b"", "empty"),
  "blank lines alone": ("a.jsonl", b"\n\n", "empty"),
  "not JSON": ("a.jsonl", b'{"inputs": "a"}\n{"inputs', "line 2"),
  "no object": ("a.jsonl", b"[1]\n", 'no "inputs"'),
  "not a text": ("a.jsonl", b'{"inputs": 3}\n', 'no "inputs"'),
  "half a character": ("a.jsonl", rb'{"inputs": "\ud800"}', "half a character"),
  "not UTF-8": ("a.txt", b"a\n\xff\xfe\n", "line 2"),
  "not gzip": ("a.txt.gz", None, "damaged"),
}


@pytest.mark.parametrize(("name", "content", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(tmp_path, name, content, said):
  path = tmp_path / name
  if content is None:
    path.write_bytes(b"no gzip")
  else:
    write(path, content)
  with pytest.raises(DataError, match=said) as raised:
    list(read_texts(str(path), "inputs"))
  assert name in str(raised.value)


@pytest.mark.parametrize("name", ["nowhere.txt", "."])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path, name):
  with pytest.raises(DataError, match="cannot be read"):
    list(read_texts(str(tmp_path / name), "inputs"))
