# SPDX-License-Identifier: Apache-2.0
"""SuperGLUE's data sets and DPR: their features, and their published files as TFDS reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from switch_t5.data.downstream import datasets
from switch_t5.data.downstream.datasets import Dataset, Example, Feature, Reader, jsonl
from switch_t5.scores.superglue import FALSE_TRUE

_FILES = {"train": "train.jsonl", "validation": "val.jsonl", "test": "test.jsonl"}
_ENTAILMENT = ("entailment", "not_entailment")
_COPA_LABELS = ("choice1", "choice2")


def _texts(*names: str, labels: tuple[str, ...]) -> dict[str, Feature]:
  return {**dict.fromkeys(names, "string"), "idx": "int32", "label": labels}


def _as_published(row: Mapping[str, Any]) -> Iterator[Example]:
  """Yields the row; a label that is true or false has that name."""
  label = row.get("label")
  yield {**row, "label": str(label) if isinstance(label, bool) else label}


def _copa(row: Mapping[str, Any]) -> Iterator[Example]:
  label = row.get("label")
  yield {**row, "label": None if label is None else _COPA_LABELS[label]}


def _multirc(row: Mapping[str, Any]) -> Iterator[Example]:
  """Yields an example for each answer to each question of a paragraph."""
  passage = row["passage"]
  for question in passage["questions"]:
    for answer in question["answers"]:
      label = answer.get("label")
      yield {
        "paragraph": passage["text"],
        "question": question["question"],
        "answer": answer["text"],
        "label": None if label is None else FALSE_TRUE[label],
        "idx": {"paragraph": row["idx"], "question": question["idx"], "answer": answer["idx"]},
      }


def _record(row: Mapping[str, Any]) -> Iterator[Example]:
  """Yields an example for each query about a passage."""
  passage = row["passage"]
  text = passage["text"]
  entities = {text[entity["start"] : entity["end"] + 1] for entity in passage["entities"]}
  for query in row["qas"]:
    yield {
      "passage": text,
      "query": query["query"],
      "entities": sorted(entities),
      "answers": sorted({answer["text"] for answer in query.get("answers", ())}),
      "idx": {"passage": row["idx"], "query": query["idx"]},
    }


def _wsc(row: Mapping[str, Any]) -> Iterator[Example]:
  """Yields the row with spans that are pieces of the text: TFDS's `wsc.fixed`."""
  (example,) = _as_published({**row, **row["target"]})
  for span in ("span1", "span2"):
    _mend(example, span)
  yield example


def _mend(example: Example, span: str) -> None:
  """Mends what the published spans have otherwise than the text: case, a full stop, line ends."""
  text, piece = example["text"], example[f"{span}_text"]
  # Of the first two the text between the names is left out, which cannot be mended.
  if piece in ("Kamenev and Zinoviev", "Kamenev, Zinoviev, and Stalin") or piece in text:
    return
  word = text.split()[example[f"{span}_index"]]
  if "theyscold" in piece:
    example["span2_index"] = 10
  first = piece[0].lower() if word[0].islower() else piece[0].upper()
  mended = (first + piece[1:]).rstrip(".").replace("\n", " ")
  if mended not in text:
    raise ValueError(f"{span}_text {piece!r} is not in the text")
  example[f"{span}_text"] = mended


def _dataset(name: str, folder: str, features: Mapping[str, Feature], read: Reader) -> Dataset:
  return Dataset(f"super_glue/{name}:1.0.2", folder, _FILES, features, read)


def _diagnostic(name: str, folder: str, *texts: str) -> Dataset:
  """Returns a data set that has a test split only, whose labels are published or not."""
  return Dataset(
    f"super_glue/{name}:1.0.2",
    folder,
    {"test": f"{folder}.jsonl"},
    _texts(*texts, labels=_ENTAILMENT),
    jsonl(_as_published),
  )


BOOLQ = _dataset(
  "boolq", "BoolQ", _texts("question", "passage", labels=FALSE_TRUE), jsonl(_as_published)
)
CB = _dataset(
  "cb",
  "CB",
  _texts("premise", "hypothesis", labels=("entailment", "contradiction", "neutral")),
  jsonl(_as_published),
)
COPA = _dataset(
  "copa",
  "COPA",
  _texts("premise", "choice1", "choice2", "question", labels=_COPA_LABELS),
  jsonl(_copa),
)
MULTIRC = _dataset(
  "multirc",
  "MultiRC",
  {
    **_texts("paragraph", "question", "answer", labels=FALSE_TRUE),
    "idx": {"paragraph": "int32", "question": "int32", "answer": "int32"},
  },
  jsonl(_multirc),
)
RECORD = _dataset(
  "record",
  "ReCoRD",
  {
    "passage": "string",
    "query": "string",
    "entities": "string[]",
    "answers": "string[]",
    "idx": {"passage": "int32", "query": "int32"},
  },
  jsonl(_record),
)
RTE = _dataset(
  "rte", "RTE", _texts("premise", "hypothesis", labels=_ENTAILMENT), jsonl(_as_published)
)
WIC = _dataset(
  "wic",
  "WiC",
  {
    **_texts("word", "sentence1", "sentence2", labels=FALSE_TRUE),
    **dict.fromkeys(("start1", "start2", "end1", "end2"), "int32"),
  },
  jsonl(_as_published),
)
WSC = _dataset(
  "wsc.fixed",
  "WSC",
  {
    **_texts("text", "span1_text", "span2_text", labels=FALSE_TRUE),
    "span1_index": "int32",
    "span2_index": "int32",
  },
  jsonl(_wsc),
)
AXB = _diagnostic("axb", "AX-b", "sentence1", "sentence2")
AXG = _diagnostic("axg", "AX-g", "premise", "hypothesis")


def _read_dpr(path: Path) -> Iterator[tuple[str, Example]]:
  """Yields DPR's examples: a sentence, its pronoun, two candidates, the right one, a blank line."""
  with path.open(encoding="utf-8") as file:
    lines = [line.strip() for line in file]
  for first in range(0, len(lines), 5):
    place = f"{path}, line {first + 1}"
    sentence, pronoun, candidates, right, *_ = [*lines[first : first + 4], "", "", "", ""]
    if not sentence:  # as TFDS, which ends there
      return
    names = [name.strip() for name in candidates.split(",")]
    if len(names) != 2 or right not in names or not pronoun:
      raise datasets.malformed(
        place,
        "five lines: a sentence, its pronoun, two candidates with a comma between them, the right "
        "one of them, and a blank line",
      )
    yield (
      place,
      {
        "sentence": sentence,
        "pronoun": pronoun,
        "candidates": names,
        "label": str(names.index(right)),
      },
    )


DPR = Dataset(
  "definite_pronoun_resolution:1.1.0",
  "DPR",
  {"train": "train.c.txt", "test": "test.c.txt"},
  {"sentence": "string", "pronoun": "string", "candidates": "string[]", "label": ("0", "1")},
  _read_dpr,
)
