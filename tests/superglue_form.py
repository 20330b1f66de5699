# SPDX-License-Identifier: Apache-2.0
"""Made-up examples of SuperGLUE and DPR, in files of their published form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_PASSAGE = (
  "The ferry left Harbour Town at noon. Mayor Ines Vidal waved.\n@highlight\nHarbour Town has a "
  "ferry again\n@highlight\nMayor Vidal is pleased"
)


def _entity(text: str) -> dict[str, int]:
  start = _PASSAGE.index(text)
  return {"start": start, "end": start + len(text) - 1}


def _boolq(n: int, label: bool) -> dict[str, Any]:
  return {"question": f"is {n} even", "passage": f"{n} is a number.", "label": label, "idx": n}


def _cb(n: int, label: str) -> dict[str, Any]:
  return {"premise": f"B: {n} boats came.", "hypothesis": "boats came", "label": label, "idx": n}


def _copa(n: int, label: int) -> dict[str, Any]:
  choices = {"choice1": "It rained.", "choice2": "It was dry."}
  return {
    "premise": f"Street {n} is wet.",
    **choices,
    "question": "cause",
    "label": label,
    "idx": n,
  }


def _multirc(n: int, labels: Iterable[int]) -> dict[str, Any]:
  answers = [{"text": f"at {hour}", "idx": hour, "label": y} for hour, y in enumerate(labels)]
  questions = [
    {"question": f"When did boat {q} leave?", "answers": answers, "idx": q} for q in (0, 1)
  ]
  text = f"<b>Sent 1: </b>Boat {n} left at noon.<br><b>Sent 2: </b>It was late.<br>"
  return {"idx": n, "version": 1.1, "passage": {"text": text, "questions": questions}}


def _record(n: int, answers: Iterable[str]) -> dict[str, Any]:
  found = [{**_entity(answer), "text": answer} for answer in answers]
  query = {"query": "Crowds met @placeholder.", "answers": found, "idx": 10 * n}
  names = ("Vidal", "Harbour Town", "Ines Vidal")
  passage = {"text": _PASSAGE, "entities": [_entity(name) for name in names]}
  return {"source": "made", "passage": passage, "qas": [query], "idx": n}


def _rte(n: int, label: str) -> dict[str, Any]:
  return {"premise": f"Boat {n} sank.", "hypothesis": "A boat sank.", "label": label, "idx": n}


def _wic(n: int, label: bool) -> dict[str, Any]:
  spans = {"start1": 2, "end1": 6, "start2": 4, "end2": 8, "version": 1.1}
  texts = {"word": "bank", "sentence1": f"A bank of {n}.", "sentence2": "The bank closed."}
  return {**texts, **spans, "label": label, "idx": n}


def _wsc(n: int, label: bool, referent: str) -> dict[str, Any]:
  target = {"span1_index": 0, "span1_text": referent, "span2_index": 4, "span2_text": "she"}
  text = f"Anna told Eva that she had won {n} prizes."
  return {"text": text, "target": target, "label": label, "idx": n}


SUPERGLUE: Mapping[str, list[dict[str, Any]]] = {
  "BoolQ": [_boolq(n, n % 2 == 0) for n in range(4)],
  "CB": [_cb(n, y) for n, y in enumerate(("neutral", "entailment", "contradiction"))],
  "COPA": [_copa(n, n % 2) for n in range(3)],
  "MultiRC": [_multirc(0, (1, 0, 1)), _multirc(1, (0, 1))],
  "ReCoRD": [_record(0, ("Ines Vidal", "Vidal", "Vidal")), _record(1, ("Harbour Town",))],
  "RTE": [_rte(0, "entailment"), _rte(1, "not_entailment")],
  "WiC": [_wic(0, True), _wic(1, False)],
  # The second span has a capital letter and a full stop that the text has not.
  "WSC": [_wsc(0, True, "Anna"), _wsc(1, False, "anna."), _wsc(2, False, "Eva")],
}
DPR = """\
The bee left the flower since it had no pollen, it seems.
it
The bee,The flower
The flower

Ann thanked Eva, as she had helped.
she
Ann, Eva
Eva

"""


def _without_labels(row: Any) -> Any:
  """Returns a row as the test split has it: without labels, and ReCoRD's without answers."""
  if isinstance(row, list):
    return [_without_labels(item) for item in row]
  if not isinstance(row, dict):
    return row
  left_out = ("label", "answers") if "query" in row else ("label",)
  return {key: _without_labels(value) for key, value in row.items() if key not in left_out}


def write_lines(path: Path, rows: Iterable[Any]) -> None:
  """Writes JSON lines."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write(folder: Path, names: Iterable[str] = tuple(SUPERGLUE)) -> Path:
  """Writes the splits of the data sets of these names, and of DPR, AX-b and AX-g; returns the folder."""
  for name in names:
    rows = SUPERGLUE[name]
    write_lines(folder / name / "train.jsonl", rows)
    write_lines(folder / name / "val.jsonl", rows[::-1])
    write_lines(folder / name / "test.jsonl", map(_without_labels, rows))
  (folder / "DPR").mkdir(parents=True, exist_ok=True)
  for split in ("train", "test"):
    (folder / "DPR" / f"{split}.c.txt").write_text(DPR, encoding="utf-8")
  pair = {"sentence1": "All slept.", "sentence2": "Some slept.", "idx": 0, "label": "entailment"}
  write_lines(folder / "AX-b" / "AX-b.jsonl", [pair])
  write_lines(folder / "AX-g" / "AX-g.jsonl", [_rte(0, "entailment")])
  return folder
