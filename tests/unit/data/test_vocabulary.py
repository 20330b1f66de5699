# SPDX-License-Identifier: Apache-2.0
"""The vocabulary: ids, sentinels, and files that are none."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from switch_t5 import errors
from switch_t5.data import vocabulary


@pytest.fixture(scope="module")
def embedded():
  return vocabulary.Vocabulary(vocabulary.embedded_vocabulary_path())


def test_the_embedded_vocabulary_is_the_one_its_readme_names():
  path = Path(vocabulary.embedded_vocabulary_path())
  sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
  assert sha256 in path.with_name("README.md").read_text()


def test_the_embedded_vocabulary_has_t5_special_ids_and_100_sentinels(embedded):
  assert (embedded.pad_id, embedded.eos_id, embedded.unk_id) == (0, 1, 2)
  assert embedded.size == 8100
  assert [embedded.sentinel_id(k) for k in (0, 1, 99)] == [8099, 8098, 8000]


def test_sentinels_in_a_text_become_their_ids_and_are_readable_again(embedded):
  text = "Thank you <extra_id_0> me to your party <extra_id_1> week."
  ids = embedded.encode(text)
  assert [i for i in ids if i >= 8000] == [8099, 8098]
  assert embedded.decode(ids) == text
  assert embedded.decode([8099, *embedded.encode("for inviting"), 8098]) == (
    "<extra_id_0> for inviting <extra_id_1>"
  )


def test_any_text_survives_the_round_trip(embedded, fixture_text):
  for text in (" ".join(fixture_text.read_text().split()), "naïve café, 12 日本 {x}"):
    ids = embedded.encode(text)
    assert embedded.unk_id not in ids
    assert embedded.decode(ids) == text


def test_a_batch_is_encoded_as_its_texts_are(embedded):
  texts = ["One text.", "", "Another <extra_id_3> one."]
  assert embedded.encode_batch(texts) == [embedded.encode(text) for text in texts]


def test_decoding_stops_at_eos_and_survives_padding_and_padded_rows_of_the_table(embedded):
  ids = embedded.encode("The end.")
  assert embedded.decode([0, *ids, 1, 500, 0]) == "The end."
  assert embedded.decode([8191]) == embedded.decode([embedded.unk_id])


def test_the_fingerprint_tells_vocabularies_apart(embedded):
  path = vocabulary.embedded_vocabulary_path()
  assert vocabulary.Vocabulary(path).fingerprint == embedded.fingerprint
  assert vocabulary.Vocabulary(path, extra_ids=10).fingerprint != embedded.fingerprint


@pytest.mark.parametrize("k", [-1, 100])
def test_a_sentinel_that_is_not_there_is_refused(embedded, k):
  with pytest.raises(errors.DataError, match="100 sentinels"):
    embedded.sentinel_id(k)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(errors.DataError, match=r"absent\.model") as raised:
    vocabulary.Vocabulary(tmp_path / "absent.model")
  assert raised.value.exit_code == 3


@pytest.mark.parametrize("content", [b"", b"piece\t-1.0\nother\t-2.0\n", b"\x00" * 100])
def test_a_file_of_another_kind_is_named(tmp_path, content):
  path = tmp_path / "other.model"
  path.write_bytes(content)
  with pytest.raises(errors.DataError, match=r"not a SentencePiece model(.|\n)*other\.model"):
    vocabulary.Vocabulary(path)


def test_a_vocabulary_with_a_piece_twice_is_named(tmp_path):
  path = tmp_path / "twice.model"
  content = Path(vocabulary.embedded_vocabulary_path()).read_bytes()
  path.write_bytes(content.replace("\u2581here".encode(), "\u2581Here".encode(), 1))
  with pytest.raises(errors.DataError, match=r"twice\.model(.|\n)*already defined"):
    vocabulary.Vocabulary(path)


def test_a_vocabulary_cut_short_is_named(tmp_path):
  path = tmp_path / "short.model"
  path.write_bytes(Path(vocabulary.embedded_vocabulary_path()).read_bytes()[:100_001])
  with pytest.raises(errors.DataError, match=r"short\.model"):
    vocabulary.Vocabulary(path)
