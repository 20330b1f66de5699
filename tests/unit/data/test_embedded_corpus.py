# SPDX-License-Identifier: Apache-2.0
"""The embedded corpus, on its smallest packages."""

from __future__ import annotations

import sys

import pytest

from switch_t5 import errors
from switch_t5.data import embedded_corpus

PACKAGE = '''"""Prose at the head of a module, which is long enough to be kept as a sentence.

    code = that_is_indented(and_not_prose)

Heading of a section
--------------------
The first sentence under a heading is kept, but the heading itself is not.

>>> this is an example of a prompt and it is no prose, whatever it may say.

Prose at the head of a module, which is long enough to be kept as a sentence.
"""

def function(x):
  """Too short.

  Args:
    x: The description of an argument is prose as well, if it is long enough,
      and it may run over several lines.

  Returns:
    A sentence about what is returned that is long enough to be kept.
  """
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
  """An installed package, which must not be imported."""
  name = "package_of_prose"
  (tmp_path / name / "tests").mkdir(parents=True)
  (tmp_path / name / "__init__.py").write_text("raise AssertionError('imported')\n")
  (tmp_path / name / "module.py").write_text(PACKAGE)
  (tmp_path / name / "broken.py").write_text("def (:\n")
  prose = '"""This is the prose of a test, which does not belong into the corpus."""\n'
  (tmp_path / name / "tests" / "module.py").write_text(prose)
  (tmp_path / name / "module_test.py").write_text(prose)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setitem(embedded_corpus.PACKAGES, name, name)
  return name


def test_only_plain_prose_is_kept_once_and_in_order(package):
  assert embedded_corpus.EmbeddedCorpus((package,)).read() == [
    "Prose at the head of a module, which is long enough to be kept as a sentence.\n"
    "The first sentence under a heading is kept, but the heading itself is not.",
    "The description of an argument is prose as well, if it is long enough,"
    " and it may run over several lines.\n"
    "A sentence about what is returned that is long enough to be kept.",
  ]
  assert package not in sys.modules


def test_it_is_the_same_when_built_again_and_is_prose():
  corpus = embedded_corpus.EmbeddedCorpus(("absl", "seqio"))
  texts = corpus.read()
  assert texts == corpus.read()
  paragraphs = [paragraph for text in texts for paragraph in text.split("\n")]
  assert len(paragraphs) == len(set(paragraphs)) > 200
  assert all(paragraph[0].isupper() and ">>>" not in paragraph for paragraph in paragraphs)


def test_provenance_names_every_package_and_tells_what_is_absent(monkeypatch):
  monkeypatch.setitem(embedded_corpus.PACKAGES, "no_such_package", "no-such-distribution")
  provenance = embedded_corpus.EmbeddedCorpus(("python", "numpy", "no_such_package")).provenance()
  assert provenance["no-such-distribution"] == "absent"
  assert provenance["numpy"][0].isdigit() and provenance["python"].startswith("3.")


def test_an_empty_corpus_is_refused(monkeypatch):
  monkeypatch.setitem(embedded_corpus.PACKAGES, "no_such_package", "no-such-distribution")
  with pytest.raises(errors.DataError, match="no_such_package"):
    embedded_corpus.EmbeddedCorpus(("no_such_package",)).read()
