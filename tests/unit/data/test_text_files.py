# SPDX-License-Identifier: Apache-2.0
"""Documents from files, and every way in which a file can be wrong."""

from __future__ import annotations

import gzip
import json
import os
import random
import re

import pytest

from switch_t5 import errors
from switch_t5.data import documents, text_files


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


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz", "a.jsonl.gz"])
def test_a_line_of_ten_megabytes_is_named_with_its_length(tmp_path, name):
  long = b"x" * 10_000_000
  path = _write(tmp_path / name, b'{"text": "One."}\n\n' + long + b"\n\n" + b'{"text": "Two."}\n')
  with pytest.raises(errors.DataError, match="too long") as raised:
    _read(path)
  assert raised.value.value == f"{path}, line 3 (byte 18): 10,000,001 bytes"
  assert "8,388,608" in raised.value.rule
  budget = documents.SkipBudget(1)
  kept = list(text_files.read_documents(path, budget))
  assert [json.loads(d)["text"] if ".txt" in name else d for d in kept] == ["One.", "Two."]
  assert (budget.lines_read, budget.lines_skipped, budget.skipped) == (4, 1, 1)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_line_of_the_greatest_length_is_read(tmp_path, monkeypatch, end):
  monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 8)
  assert _read(_write(tmp_path / "a.txt", f"12345678\n123456{end}")) == ["12345678", "123456"]
  with pytest.raises(errors.DataError, match=r"line 2 \(byte 2\): 9 bytes"):
    _read(_write(tmp_path / "a.txt", "1\n123456789"))


def test_a_long_line_is_not_held_in_memory(tmp_path):
  import tracemalloc

  path = _write(tmp_path / "a.txt", b"One.\n\n" + b"x" * 200_000_000 + b"\n\nTwo.\n")
  tracemalloc.start()
  try:
    assert list(text_files.read_documents(path, documents.SkipBudget(1))) == ["One.", "Two."]
    assert tracemalloc.get_traced_memory()[1] < 4 * text_files.MAX_LINE_BYTES
  finally:
    tracemalloc.stop()


def test_the_whole_document_of_a_faulty_line_is_skipped_and_counts_once(tmp_path):
  content = b"One\nand \xff more,\n\xfe\nand more.\n\nTwo.\n"
  budget = documents.SkipBudget(1)
  path = _write(tmp_path / "a.txt", content)
  assert list(text_files.read_documents(path, budget)) == ["Two."]
  assert (budget.lines_read, budget.lines_skipped, budget.skipped) == (2, 4, 1)


def test_where_lines_are_documents_each_faulty_line_counts(tmp_path):
  path = _write(tmp_path / "a.txt", b"\nOne.\n\xff\nTwo.\n\xfe\n\n")
  budget = documents.SkipBudget(2)
  assert list(text_files.read_documents(path, budget)) == ["One.", "Two."]
  assert (budget.lines_read, budget.lines_skipped, budget.skipped) == (4, 2, 2)
  with pytest.raises(errors.DataError, match="line 5"):
    list(text_files.read_documents(path, documents.SkipBudget(1)))


def test_a_file_that_is_no_text_does_not_fill_memory_with_faults(tmp_path):
  path = _write(tmp_path / "a.txt", b"\xff\n" * 10_000)
  with pytest.raises(errors.DataError, match=r"line 11 \(byte 20\)"):
    list(text_files.read_documents(path, documents.SkipBudget(10)))
  _write(tmp_path / "a.txt", b"\xff\n" * 10_000 + b"\nOne.\n")  # one document, after all
  budget = documents.SkipBudget(10)
  assert list(text_files.read_documents(path, budget)) == ["One."]
  assert (budget.lines_read, budget.lines_skipped, budget.skipped) == (2, 10_000, 1)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_file_whose_lines_were_all_skipped_is_not_empty(tmp_path, name):
  budget = documents.SkipBudget(5)
  path = _write(tmp_path / name, b"\xff\n\n")
  assert list(text_files.read_documents(path, budget)) == []
  assert (budget.lines_read, budget.lines_skipped) == (1, 1)


def test_a_deeply_nested_line_is_a_fault_like_another(tmp_path):
  path = _write(tmp_path / "a.jsonl", "[" * 100_000 + '\n{"text": "One."}\n')
  assert list(text_files.read_documents(path, documents.SkipBudget(1))) == ["One."]


def test_skipped_lines_are_summed_over_files_and_told_by_file(tmp_path, caplog):
  paths = [_write(tmp_path / f"{i}.jsonl", b'{"text": "One."}\n' + b"bad\n" * i) for i in range(3)]
  budget = documents.SkipBudget(3)
  splits = text_files.TextFiles(tuple(paths)).documents(budget)
  assert sum(map(len, splits.values())) == 3
  assert (budget.lines_read, budget.lines_skipped, budget.skipped) == (3, 3, 3)
  told = [message for message in caplog.messages if "lines skipped" in message]
  assert told == [
    f"{paths[1]}: 1 of 2 lines skipped, 1 document(s)",
    f"{paths[2]}: 2 of 3 lines skipped, 2 document(s)",
  ]


def test_a_damaged_gzip_file_is_not_skipped(tmp_path):
  path = tmp_path / "a.txt.gz"
  path.write_bytes(gzip.compress(os.urandom(300).hex().encode())[:200])
  with pytest.raises(errors.DataError, match="damaged"):
    list(text_files.read_documents(str(path), documents.SkipBudget(100)))


def _count_lines(content: bytes) -> int:
  return content.count(b"\n") + (content != b"" and not content.endswith(b"\n"))


_TEXT_FAULTS = (b"caf\xe9.", b"\xff" * 20, b"x" * 65, b"cut \xe2\x82", b"\xed\xa0\x80")
_JSON_FAULTS = (
  *_TEXT_FAULTS,
  b"{",
  b"word",
  b'{"txt": "a"}',
  b'{"text": null}',
  rb'{"text": "\ud800"}',
)


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz", "a.jsonl.gz"])
def test_lines_read_and_skipped_are_the_lines_there(tmp_path, monkeypatch, name, seed):
  monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 64)
  rng = random.Random(f"{seed} {name}")
  is_json = "jsonl" in name
  end = rng.choice([b"\n", b"\r\n"])
  lines, expected, faulty, skipped_lines = [b""] * rng.randrange(3), [], 0, 0
  several = rng.random() < 0.7  # documents separated by blank lines
  paragraphs = rng.randrange(2, 12) if several else 1
  for i in range(paragraphs):
    texts = [f"Line {i} {j}, né." for j in range(rng.randrange(1, 4))]
    wrong = rng.random() < 0.4
    kept = [json.dumps({"text": t}).encode() if is_json else t.encode() for t in texts]
    bad = rng.randrange(len(kept)) if wrong else None
    if wrong:
      kept[bad] = rng.choice(_JSON_FAULTS if is_json else _TEXT_FAULTS)
    if is_json or not several:
      expected += [text for j, text in enumerate(texts) if j != bad]
      skipped_lines += wrong
    elif wrong:
      skipped_lines += len(kept)
    else:
      expected.append("\n".join(texts))
    faulty += wrong
    lines += kept + [rng.choice([b"", b" ", b"\t \xc2\xa0"])] * (rng.randrange(1, 3))
  content = rng.choice([b"", b"\xef\xbb\xbf"]) + end.join(lines)
  budget = documents.SkipBudget(faulty)
  path = _write(tmp_path / name, content)
  assert list(text_files.read_documents(path, budget)) == expected
  assert (budget.skipped, budget.lines_skipped) == (faulty, skipped_lines)
  assert budget.lines_read + budget.lines_skipped == _count_lines(content)
  if faulty:
    with pytest.raises(errors.DataError):
      list(text_files.read_documents(path, documents.SkipBudget(faulty - 1)))


@pytest.mark.parametrize("seed", range(60))
def test_plain_text_is_split_as_by_a_search_for_blank_lines_in_all_of_it(tmp_path, seed):
  rng = random.Random(seed)
  pieces = ["a", "é", " ", "\t", "\n", "\n", "\r\n", "\r", "\x0b", "\x1c", "\x85", "\u2028", "\xa0"]
  content = "x" + "".join(rng.choices(pieces, k=rng.randrange(40)))
  text = content.replace("\r\n", "\n").strip()
  blank = re.compile(r"\n[^\S\n]*\n")
  parts = blank.split(text) if blank.search(text) else text.split("\n")
  expected = [part.strip() for part in parts if part.strip()]
  path = tmp_path / "a.txt"
  path.write_bytes(content.encode())
  assert _read(path) == expected
