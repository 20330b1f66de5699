# SPDX-License-Identifier: Apache-2.0
"""The embedded corpus: English prose that every installation already has.

The documentation strings of a fixed list of permissively licensed packages, which this package's
own dependencies install, read with `ast` and never imported. A *document* is what is left of one
documentation string when everything but plain prose is removed: code, tables, headings, lists of
parameters, and paragraphs that were seen before.

The text follows from the versions of the packages and of Python; it is byte-identical when built
again with the same ones, and both are recorded in a cache made from it. Numbers that must not move
are taken on the frozen text `fixture.txt` instead.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.metadata
import importlib.util
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

import tqdm

from switch_t5 import errors
from switch_t5.data import documents as documents_lib

STANDARD_LIBRARY = "python"

# Import name -> name of the distribution. The licence of each is in data/README.md.
PACKAGES = {
  STANDARD_LIBRARY: STANDARD_LIBRARY,
  "numpy": "numpy",
  "scipy": "scipy",
  "jax": "jax",
  "flax": "flax",
  "optax": "optax",
  "orbax": "orbax-checkpoint",
  "keras": "keras",
  "tensorflow_datasets": "tensorflow-datasets",
  "seqio": "seqio",
  "clu": "clu",
  "absl": "absl-py",
}
RULES_VERSION = 1  # to be raised with every change of the rules below

_EXCLUDED_FOLDERS = frozenset(
  {"test", "tests", "testing", "test_data", "_test", "idlelib", "lib2to3", "turtledemo"}
  | {"pydoc_data", "site-packages", "dist-packages", "__pycache__", "node_modules"}
)
_MIN_WORDS = 8
_PLAIN_WORD = re.compile(r"[\"'(]*[A-Za-z]+(?:['-][A-Za-z]+)*[\"')]*[.,;:!?]*[\"')]*$")
_MIN_PLAIN_WORDS = 0.8  # the fraction of a paragraph's words that are plain
_NOT_PROSE = re.compile(
  "|".join(
    (
      r">>>|::|__",  # prompts, literal blocks, names with two underscores
      r"[`*_=<>{}\[\]|\\#@~^$]{2}",  # two signs of markup in a row
      r"[={}\[\]|\\<>@]",  # signs of code and of tables, even alone
      r"https?:|TODO|Copyright",
    )
  )
)
_PARAGRAPH_BREAK = re.compile(r"\n[ \t]*\n")
_UNDERLINE = re.compile(r"\s*[-=~^*]{3,}\s*$")
# A bullet, a number, or the label of a parameter or an exception: `name: `, `name (type): `.
_ITEM = re.compile(r"\s*(?:[-*+•]\s+|\d+[.)]\s+|[*`]*[A-Za-z_][\w.*`]*(?: ?\([^)]*\))?: +)")
_SPACES = re.compile(r"\s+")
_MARKUP = re.compile(r":[a-z]+:(?=`)|`+")


@dataclasses.dataclass(frozen=True)
class EmbeddedCorpus:
  """The embedded corpus, as a source of documents.

  Attributes:
    packages: import names, a subset of `PACKAGES`; those not installed contribute nothing.
  """

  packages: tuple[str, ...] = tuple(PACKAGES)

  def documents(self, budget: documents_lib.SkipBudget | None = None) -> dict[str, list[str]]:
    """Returns the documents of each split, as `read` finds them; none is faulty."""
    del budget
    return documents_lib.split_and_shuffle(self.read())

  def read(self) -> list[str]:
    """Returns all documents in the order of the files; shows a progress bar on a terminal.

    Raises:
      DataError: none of the packages is installed in the form of source files.
    """
    files = [path for package in self.packages for path in _source_files(package)]
    seen: set[str] = set()
    documents = []
    for path in tqdm.tqdm(files, desc="embedded corpus", unit="file", disable=None):
      for docstring in _docstrings(path):
        paragraphs = [p for p in _prose_paragraphs(docstring) if p not in seen]
        seen.update(paragraphs)
        if paragraphs:
          # A paragraph repeated within one docstring is kept once, too.
          documents.append("\n".join(dict.fromkeys(paragraphs)))
    if not documents:
      raise errors.DataError(
        "The embedded corpus is empty.",
        value=", ".join(self.packages),
        rule="it is made of the documentation strings of installed packages",
        remedy="install the packages from source files (wheels), or train on your own text: "
        "task text_span_corruption with TEXT_FILES.",
      )
    return documents

  def provenance(self) -> dict[str, str]:
    """Returns the version of each package (`absent` if not installed) and of the rules here."""
    versions = {PACKAGES[package]: _version(package) for package in self.packages}
    return versions | {"rules": str(RULES_VERSION)}


def _version(package: str) -> str:
  if package == STANDARD_LIBRARY:
    return platform.python_version()
  try:
    return importlib.metadata.version(PACKAGES[package])
  except importlib.metadata.PackageNotFoundError:
    return "absent"


def _source_files(package: str) -> list[Path]:
  """Returns the package's .py files without its tests, sorted by relative path."""
  if package == STANDARD_LIBRARY:
    folders = [sysconfig.get_paths()["stdlib"]]
  else:
    spec = importlib.util.find_spec(package)  # of a top-level name: finds, does not import
    folders = list(spec.submodule_search_locations or ()) if spec else []
  files = []
  for folder in folders:
    for path in Path(folder).rglob("*.py"):
      relative = path.relative_to(folder)
      is_test = relative.stem.startswith("test_") or relative.stem.endswith("_test")
      if not is_test and not _EXCLUDED_FOLDERS.intersection(relative.parts):
        files.append((relative.as_posix(), path))
  return [path for _, path in sorted(files)]


def _docstrings(path: Path) -> Iterator[str]:
  """Yields the documentation strings of one source file, in source order."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # invalid escapes in other people's strings
      tree = ast.parse(path.read_bytes())
  except (SyntaxError, ValueError):  # templates and files of another Python
    return
  documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
  pending: list[ast.AST] = [tree]
  while pending:
    node = pending.pop()
    if isinstance(node, documented) and (docstring := ast.get_docstring(node)):
      yield docstring
    # Only statements are visited: definitions are never inside expressions.
    children = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    pending.extend(reversed(children))


def _prose_paragraphs(docstring: str) -> Iterator[str]:
  """Yields the passages that are plain English prose, each as one line."""
  for paragraph in _PARAGRAPH_BREAK.split(docstring):
    for lines in _passages(paragraph.strip("\n").split("\n")):
      text = _SPACES.sub(" ", _MARKUP.sub("", " ".join(lines))).strip()
      if _is_prose(text):
        yield text


def _passages(lines: list[str]) -> Iterator[list[str]]:
  """Splits a paragraph at headings, list items, labels and changes of the indentation."""
  passage: list[str] = []
  indentation, hanging = 0, False  # hanging: the next line may be indented more
  for line in lines:
    if _UNDERLINE.match(line):
      passage = []  # what stands above it is a heading
      continue
    item = _ITEM.match(line)
    text = line[item.end() :] if item else line
    line_indentation = len(line) - len(line.lstrip())
    continues = line_indentation == indentation or (hanging and line_indentation > indentation)
    if item or not continues:
      yield passage
      passage = []
    passage.append(text)
    indentation, hanging = line_indentation, item is not None
  yield passage


def _is_prose(text: str) -> bool:
  words = text.split(" ")
  if len(words) < _MIN_WORDS or not text.isascii() or _NOT_PROSE.search(text):
    return False
  if not text[0].isupper() or text[-1] not in ".:!?)":
    return False
  plain = sum(_PLAIN_WORD.match(word) is not None for word in words)
  return plain >= _MIN_PLAIN_WORDS * len(words)
