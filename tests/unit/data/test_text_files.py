# SPDX-License-Identifier: Apache-2.0
"""Documents from files, and every way in which a file can be wrong."""

from __future__ import annotations

import gzip
import json
import os

import pytest

from switch_t5 import errors
from switch_t5.data import text_files


def _write(path, content: str | bytes):
  content = content.encode("utf-8") if isinstance(content, str) else content
  path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
  return str(path)


def _read(path) -> list[str]:
  return list(text_files.read_documents(str(path)))


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.md"])
def test_blank_lines_separate_the_documents_of_a_text(tmp_path, name):
  path = _write(tmp_path / name, "\n\nOne\nand a half.\n\nTwo. \n \t\n\nThree.")
  assert _read(path) == ["One\nand a half.", "Two.", "Three."]


def test_a_text_without_blank_lines_has_a_document_per_line(tmp_path):
  assert _read(_write(tmp_path / "a.txt", "One.\nTwo.\nThree.\n")) == ["One.", "Two.", "Three."]


def test_windows_line_ends_and_a_byte_order_mark_do_not_matter(tmp_path):
  path = _write(tmp_path / "a.txt", b"\xef\xbb\xbfOne\r\nand more.\r\n\r\nTwo.\r\n")
  assert _read(path) == ["One\nand more.", "Two."]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_each_line_of_jsonl_is_a_document(tmp_path, name):
  lines = [json.dumps({"text": "One\n\nand more.", "id": 1}), "", json.dumps({"text": "Zwei ü"})]
  assert _read(_write(tmp_path / name, "\n".join(lines))) == ["One\n\nand more.", "Zwei ü"]


def test_globs_are_separated_by_commas_sorted_and_without_repetition(tmp_path):
  folder = tmp_path / "deep" / "er"
  folder.mkdir(parents=True)
  b, a, c = (
    _write(path, "x") for path in (tmp_path / "b.txt", tmp_path / "a[1].txt", folder / "c")
  )
  found = text_files.find_files(f"{tmp_path}/*.txt, {b},{a}, {tmp_path}/**/c")
  assert found == (a, b, c)
  assert text_files.find_files([b]) == (b,)


def test_provenance_follows_the_content_and_not_the_folder(tmp_path):
  (tmp_path / "copy").mkdir()
  original = text_files.TextFiles((_write(tmp_path / "a.txt", "One."),))
  copy = text_files.TextFiles((_write(tmp_path / "copy" / "a.txt", "One."),))
  assert original.provenance() == copy.provenance()
  before = original.provenance()
  _write(tmp_path / "a.txt", "Two.")
  assert original.provenance() != before
  both = text_files.TextFiles(original.paths + copy.paths)
  assert len(both.provenance()) == 2


@pytest.mark.parametrize("patterns", ["nothing/*.txt", ["x.txt"], "", [], " , "])
def test_no_matching_file_is_an_error(tmp_path, monkeypatch, patterns):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(errors.DataError, match="TEXT_FILES") as raised:
    text_files.find_files(patterns)
  assert raised.value.exit_code == 3


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz"])
@pytest.mark.parametrize("content", ["", " \n\n\t\n"])
def test_an_empty_file_is_an_error(tmp_path, name, content):
  path = _write(tmp_path / name, content)
  with pytest.raises(errors.DataError, match=r"empty") as raised:
    _read(path)
  assert raised.value.value == path


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_bad_utf8_is_named_by_line_and_byte(tmp_path, mark):
  path = _write(tmp_path / "a.txt", mark + b"One.\nTw\xf6.\n")
  with pytest.raises(errors.DataError, match="UTF-8") as raised:
    _read(path)
  assert f"{path}, line 2 (byte {7 + len(mark)})" in raised.value.value
  assert "iconv" in raised.value.remedy


@pytest.mark.parametrize(
  "line", ['{"text": "cut', "plain", '{"text": 1}', '{"txt": "a"}', "[1]", r'{"text": "\ud800"}']
)
def test_a_bad_json_line_is_named_by_line_and_byte(tmp_path, line):
  path = _write(tmp_path / "a.jsonl", '{"text": "é"}\n' + line + "\n")
  with pytest.raises(errors.DataError, match="JSON") as raised:
    _read(path)
  assert raised.value.value == f"{path}, line 2 (byte 15)"


@pytest.mark.parametrize("damage", ["cut", "flipped", "plain"])
def test_a_damaged_gzip_file_is_named(tmp_path, damage):
  path = tmp_path / "a.txt.gz"
  content = bytearray(gzip.compress(os.urandom(300).hex().encode()))
  if damage == "cut":
    content = content[:200]
  elif damage == "flipped":
    content[100] ^= 1
  else:
    content = bytearray(b"not compressed")
  path.write_bytes(content)
  with pytest.raises(errors.DataError, match="damaged") as raised:
    _read(path)
  assert raised.value.value == str(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
  source = text_files.TextFiles((str(tmp_path / "gone.txt"),))
  for method in (source.documents, source.provenance):
    with pytest.raises(errors.DataError, match=r"gone\.txt"):
      method()
