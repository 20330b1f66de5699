# SPDX-License-Identifier: Apache-2.0
"""Made-up examples of data sets, in files of the form in which their authors publish them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_all(folder: Path) -> Path:
  """Writes every data set here into its folder below `folder`, which is returned."""
  for write in (squad, closed_book, summaries, choices, anli, wmt):
    write(folder)
  return folder


def jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
  text(path, "".join(json.dumps(row) + "\n" for row in rows))


def text(path: Path, content: str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content.encode("utf-8"))


def squad(folder: Path) -> None:
  def question(key, asked, *answers):
    found = [{"text": answer, "answer_start": 3 * n} for n, answer in enumerate(answers)]
    return {"id": key, "question": asked, "answers": found}

  articles = {
    "train": [
      {
        "title": "Rivers",
        "paragraphs": [
          {
            "context": "The Rhine\n(1,233 km) rises in  François's garden.",
            "qas": [
              question("q1", "Where does it rise?", "François's garden"),
              question("q2", "How long?", "1,233 km", "1,233"),
            ],
          },
        ],
      },
      {
        "title": "Empty",
        "paragraphs": [{"context": "No.", "qas": [question("q3", "Is it?", "No.")]}],
      },
    ],
  }
  articles["dev"] = articles["train"][:1]
  for split, data in articles.items():
    text(
      folder / "squad" / f"{split}-v1.1.json",
      json.dumps({"version": "1.1", "data": data}),
    )


def closed_book(folder: Path) -> None:
  nq = [
    {"question": "who wrote it", "answer": ["Ann Lee", "A. Lee"]},
    {"question": "when was it", "answer": ["1901"]},
  ]
  jsonl(folder / "nq_open" / "NQ-open.train.jsonl", nq)
  jsonl(folder / "nq_open" / "NQ-open.dev.jsonl", nq[:1])
  wq = [
    {
      "url": "http://x.org/1",
      "targetValue": '(list (description Jo) (description "Jo (the elder) of Y") (description 3\'s))',
      "utterance": "who is the sister of jo?",
    },
    {"url": "http://x.org/2", "targetValue": "(list (description Z))", "utterance": "where is z?"},
  ]
  text(folder / "webquestions" / "webquestions.examples.train.json", json.dumps(wq))
  text(folder / "webquestions" / "webquestions.examples.test.json", json.dumps(wq[1:]))
  trivia = [
    {
      "Answer": {
        "Aliases": ["Big Bob ", "Bob"],
        "NormalizedAliases": ["big bob", "bob"],
        "MatchedWikiEntryName": "Bob",
        "NormalizedMatchedWikiEntryName": "bob",
        "NormalizedValue": "big bob",
        "Type": "WikipediaEntity",
        "Value": "Big Bob",
      },
      "EntityPages": [{"Filename": "Bob.txt", "Title": "Bob"}],
      "SearchResults": [{"Filename": "1.txt", "Rank": 0}],
      "Question": " Who is big? ",
      "QuestionId": "tc_1",
      "QuestionSource": "http://x.org",
    },
    {
      "Answer": {
        "Aliases": ["Four"],
        "NormalizedAliases": ["four"],
        "NormalizedValue": "four",
        "Type": "Numerical",
        "Value": "Four",
      },
      "Question": "How many?",
      "QuestionId": "tc_2",
      "QuestionSource": "http://x.org",
    },
  ]
  unanswered = [{key: value for key, value in row.items() if key != "Answer"} for row in trivia]
  for name, rows in (
    ("train", trivia),
    ("dev", trivia[1:]),
    ("test-without-answers", unanswered),
  ):
    text(
      folder / "triviaqa-unfiltered" / f"unfiltered-web-{name}.json",
      # TFDS finds the records by this indentation.
      json.dumps({"Data": rows, "Domain": "unfiltered-web"}, indent=4) + "\n",
    )


def summaries(folder: Path) -> None:
  for split in ("train", "validation", "test"):
    jsonl(
      folder / "cnn_dailymail" / f"{split}.jsonl",
      [{"article": "It rained . A lot.", "highlights": "It rained .\nA lot .", "id": "0a"}],
    )
    jsonl(
      folder / "xsum" / f"{split}.jsonl",
      [{"document": "It rained.\nA lot.", "summary": "Rain fell.", "id": "7"}],
    )


def choices(folder: Path) -> None:
  sentences = [
    {
      "qID": f"q{n}-{answer}",
      "sentence": "Ann thanked Beth because _ had helped.",
      "option1": "Ann",
      "option2": "Beth",
      "answer": answer,
    }
    for n, answer in enumerate("212")
  ]
  winogrande = folder / "winogrande_1.1"
  for split in ("train_xs", "train_s", "train_m", "train_l", "train_xl", "dev"):
    jsonl(winogrande / f"{split}.jsonl", sentences)
  unlabelled = [{key: row[key] for key in row if key != "answer"} for row in sentences]
  jsonl(winogrande / "test.jsonl", unlabelled)
  questions = [
    {
      "id": f"Mercury_{n}",
      "question": {
        "stem": "Which is a metal?",
        "choices": [
          {"text": text, "label": label}
          for label, text in zip(names, ("air", "iron", "wood", "milk", "salt"), strict=False)
        ],
      },
      "answerKey": names[1],
    }
    for n, names in enumerate(("ABCD", "123", "ABCDE"))
  ]
  for name in ("ARC-Easy", "ARC-Challenge"):
    for split in ("Train", "Dev", "Test"):
      jsonl(folder / "ARC-V1-Feb2018-2" / name / f"{name}-{split}.jsonl", questions)


def anli(folder: Path) -> None:
  rows = [
    {"uid": f"u{label}", "context": "It rained.", "hypothesis": "It was wet.", "label": label}
    for label in "enc"
  ]
  for number in (1, 2, 3):
    for split in ("train", "dev", "test"):
      jsonl(folder / "anli_v0.1" / f"R{number}" / f"{split}.jsonl", rows)


def wmt(folder: Path) -> None:
  for name, code in (("wmt_t2t_ende", "de"), ("wmt15_enfr", "fr"), ("wmt16_enro", "ro")):
    for split in ("train", "validation", "test"):
      text(folder / name / f"{split}.en", "The house .\n\nA line\u2028is one.\n")
      text(
        folder / name / f"{split}.{code}", f"{code} the house is .\n{code} alone\n{code} a line\n"
      )
