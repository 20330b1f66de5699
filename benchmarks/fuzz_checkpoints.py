# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of every format, each changed at random in one place, opened and read.

  python -m benchmarks.fuzz_checkpoints [--mutations=1000] [--format=t5x] [--seed=0] [--json]

A change is of bytes (flipped, zeroed, cut out, ...), of files (missing, swapped, a link, a pipe, ...), of what
describes the arrays (a number, a shape, a path, a key twice, ...) or a bomb. Each is made to a fresh copy of a
tiny checkpoint, which is then opened as `switch_t5 convert` does and read. What became of it:

- refused: with an error for the user that says where;
- equal: all that was read is as before;
- one array: that array has other numbers, where nothing is there to tell by, such as a checksum;
- another: several arrays have, or a dtype changed for one of its size, or the optimizer's state is gone: a
  checkpoint that contradicts nothing in it;
- fault: anything else. Another exception, a crash, more than 20 s or 1 GB, something read from outside the
  folder or written there, one byte that changed several arrays, a change behind a checksum that was not
  seen, names or shapes that nothing supports.

The command fails if there is a fault.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import sys
import tempfile
from collections.abc import Sequence

from benchmarks.fuzzing.judge import ANOTHER, EQUAL, FAULT, ONE, REFUSED, Verdict
from benchmarks.fuzzing.pool import Task, judge_all
from benchmarks.fuzzing.pristine import write_variants
from benchmarks.timing import print_results
from switch_t5.interop.detect import FORMATS

OUTCOMES = (REFUSED, EQUAL, ONE, ANOTHER, FAULT)
_WORKERS = 2

Verdicts = dict[str, list[tuple[Task, Verdict]]]


def fuzz(
  formats: Sequence[str], mutations: int, seed: int, folder: pathlib.Path, workers: int = _WORKERS
) -> Verdicts:
  """Returns what became of the changes of each format.

  Args:
    formats: of `detect.FORMATS`.
    mutations: of each format, its forms in turn.
    seed: of what is done.
    folder: an empty one.
    workers: processes.
  """
  variants = write_variants(folder)
  tasks = []
  for kind in formats:
    forms = [variant for variant in variants if variant.format == kind]
    for i in range(mutations):
      tasks.append(Task(forms[i % len(forms)], f"{seed}, {kind}, {i}"))
  verdicts: Verdicts = {kind: [] for kind in formats}
  for task, verdict in judge_all(tasks, folder, workers):
    verdicts[task.variant.format].append((task, verdict))
  return verdicts


def figures(verdicts: Verdicts) -> dict[str, dict[str, float]]:
  """Returns the figures of each format."""
  table = {}
  for kind, judged in verdicts.items():
    counts = collections.Counter(verdict.outcome for _, verdict in judged)
    table[kind] = {
      "changes": len(judged),
      **{outcome: counts[outcome] for outcome in OUTCOMES},
      "slowest, s": max(verdict.seconds for _, verdict in judged),
      "most memory, MB": max(verdict.megabytes for _, verdict in judged),
    }
  return table


def describe_faults(verdicts: Verdicts) -> list[str]:
  """Returns a paragraph for each fault: where, what was done, what became of it."""
  return [
    f"{kind}, {task.variant.form} ({task.seed}): {verdict.mutation}\n{verdict.detail}"
    for kind, judged in verdicts.items()
    for task, verdict in judged
    if verdict.outcome == FAULT
  ]


def _print_table(verdicts: Verdicts) -> None:
  table = figures(verdicts)
  columns = list(next(iter(table.values())))
  print("| format | " + " | ".join(columns) + " |")
  print("|---" * (len(columns) + 1) + "|")
  for kind, row in table.items():
    values = [f"{row[name]:.1f}" if ", " in name else f"{row[name]:.0f}" for name in columns]
    print(f"| {kind} | " + " | ".join(values) + " |")
  print()
  for outcome in (ONE, ANOTHER):
    kinds = collections.Counter(
      f"{verdict.mutation.group}: {verdict.mutation.kind.removeprefix('database: ')}"
      for judged in verdicts.values()
      for _, verdict in judged
      if verdict.outcome == outcome
    )
    print(f"{outcome}: " + ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))


def main() -> None:
  """Prints the figures, and each fault."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--mutations", type=int, default=1000)
  parser.add_argument("--format", choices=FORMATS)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--json", action="store_true")
  arguments = parser.parse_args()
  formats = [arguments.format] if arguments.format else list(FORMATS)
  with tempfile.TemporaryDirectory() as folder:
    verdicts = fuzz(formats, arguments.mutations, arguments.seed, pathlib.Path(folder))
  if arguments.json:
    print_results(
      {f"{kind}: {name}": v for kind, row in figures(verdicts).items() for name, v in row.items()},
      as_json=True,
    )
  else:
    _print_table(verdicts)
  if faults := describe_faults(verdicts):
    sys.exit("\n\n".join(faults))


if __name__ == "__main__":
  main()
