# SPDX-License-Identifier: Apache-2.0
"""The indexed reader: tokens per CPU-second of the process, and what the parts of a row cost.

  python -m benchmarks.indexed_reader [--json] [--rows=20000]

The embedded corpus (its cache is written first if it is not there), inputs 512 and targets 114, so
626 tokens a row, in batches of 16 and 128. The thread that reads ahead is part of the process.
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np

from benchmarks.timing import print_results
from switch_t5.cli.dataset import DatasetConfig, prepare_cache
from switch_t5.data import documents, indexed, span_corruption

LENGTHS = {"inputs": 512, "targets": 114}
BATCHES = (16, 128)


def reader_rate(caches, batch_size: int, rows: int) -> float:
  """Returns tokens per CPU-second of the whole reader."""
  reader = indexed.IndexedReader(
    caches, documents.TRAIN, feature_lengths=LENGTHS, batch_size=batch_size, seed=0
  )
  next(reader)
  started = time.process_time()
  for _ in itertools.repeat(None, rows // batch_size):
    next(reader)
  seconds = time.process_time() - started
  return rows // batch_size * batch_size * sum(LENGTHS.values()) / seconds


def corruption_rate(batch_size: int, rows: int) -> float:
  """Returns tokens per CPU-second of span corruption alone."""
  window = span_corruption.window_for_inputs(LENGTHS["inputs"])
  tokens = np.random.default_rng(0).integers(2, 8000, (batch_size, window), np.int32)
  started = time.process_time()
  for first in range(0, rows, batch_size):
    numbers = range(first, first + batch_size)
    span_corruption.corrupt(tokens, 0, numbers, top_id=8099, eos_id=1)
  seconds = time.process_time() - started
  return -(-rows // batch_size) * batch_size * sum(LENGTHS.values()) / seconds


def measure(rows: int) -> dict[str, float]:
  """Returns millions of tokens per CPU-second."""
  dataset = DatasetConfig("embedded_span_corruption", LENGTHS, BATCHES[0])
  (task,) = dataset.components()
  caches = prepare_cache(dataset, task)
  results = {}
  for batch_size in BATCHES:
    reader = reader_rate(caches, batch_size, rows)
    results[f"reader, batch {batch_size}, M tokens per CPU-s"] = reader / 1e6
    corruption = corruption_rate(batch_size, rows)
    results[f"span corruption alone, batch {batch_size}, M tokens per CPU-s"] = corruption / 1e6
  return results


def main() -> None:
  """Prints the rates."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--json", action="store_true")
  parser.add_argument("--rows", type=int, default=20_000)
  arguments = parser.parse_args()
  print_results(measure(arguments.rows), arguments.json)


if __name__ == "__main__":
  main()
