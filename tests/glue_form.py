# SPDX-License-Identifier: Apache-2.0
"""Made-up examples of GLUE, in tables of their published form."""

from __future__ import annotations

from pathlib import Path

# The lines of each table of `train`, which `dev` has too; `test` lacks the last column.
TABLES = {
  "CoLA": ["gj04\t1\t\tThe cat sat.", 'gj04\t0\t*\tCat the "sat.'],
  "SST-2": ["sentence\tlabel", "a fine film \t1", "a dull film \t0"],
  "MRPC": [
    "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "1\t7\t8\tIt rained .\tRain fell .",
    "0\t7\t9\tIt rained .\tIt was dry .",
  ],
  "QQP": [
    "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
    "0\t1\t2\tHow old?\tWhat age?\t1",
    "1\t3\t4\tcut off",
    "2\t5\t6\tHow old?\tHow far?\t0",
  ],
  "STS-B": [
    "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
    "0\tnews\tf\t2012\t1\tnone\tnone\tIt rained.\tRain fell.\t4.700",
    "1\tnews\tf\t2012\t2\tnone\tnone\tIt rained.\tDogs ran.\t0.100",
  ],
  "QNLI": ["index\tquestion\tsentence\tlabel", "0\tWho sat?\tThe cat sat.\tentailment"],
  "RTE": [
    "index\tsentence1\tsentence2\tlabel",
    "0\tIt rained.\tRain fell.\tentailment",
    "1\tIt rained.\tIt was dry.\tnot_entailment",
  ],
  "WNLI": [
    "index\tsentence1\tsentence2\tlabel",
    "0\tThe fish ate the worm. It was tasty.\tThe worm was tasty.\t1",
    "1\tAnn met Eva's dog after she left, and barked.\tAnn met Eva's dog after Eva left.\t0",
  ],
}
_TAB = "\t"
_MNLI = [
  "index\tpromptID\tsentence1\tsentence2\tlabel1\tgold_label",
  "0\t1\tIt rained.\tRain fell.\tneutral\tentailment",
  "1\t2\tIt rained.\tIt was dry.\tneutral\tcontradiction",
]


def _without_labels(name: str, lines: list[str]) -> list[str]:
  """Returns a table as the test split has it."""
  if name == "CoLA":
    return ["index\tsentence", *(f"0\t{line.rpartition(_TAB)[2]}" for line in lines)]
  if name == "MRPC":
    return ["index" + lines[0].removeprefix("Quality"), *lines[1:]]
  return [line.rpartition("\t")[0] for line in lines if "cut off" not in line]


def _write(path: Path, lines: list[str]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write(folder: Path) -> Path:
  """Writes the splits of all data sets; returns the folder."""
  for name, lines in TABLES.items():
    _write(folder / name / "train.tsv", lines)
    _write(folder / name / "dev.tsv", lines)
    _write(folder / name / "test.tsv", _without_labels(name, lines))
  _write(folder / "MNLI" / "train.tsv", _MNLI)
  for kind in ("matched", "mismatched"):
    _write(folder / "MNLI" / f"dev_{kind}.tsv", _MNLI)
    _write(folder / "MNLI" / f"test_{kind}.tsv", _without_labels("MNLI", _MNLI))
  _write(folder / "diagnostic" / "diagnostic.tsv", ["index\tsentence1\tsentence2", "0\tA.\tB."])
  return folder
