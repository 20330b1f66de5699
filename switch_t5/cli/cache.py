# SPDX-License-Identifier: Apache-2.0
"""The mode `cache`: materialises a task or a mixture's tasks once, for any number of runs to read.

Several jobs may share the work, each started with `--job=I/N`: see `switch_t5.data.cache`.
"""

from __future__ import annotations

from switch_t5.cli import dataset as dataset_lib
from switch_t5.cli import gin_setup
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.dataset import DatasetConfig
from switch_t5.cli.flags import CommandLine
from switch_t5.data import cache

_SHOWN_JOBS = 8


def run(command_line: CommandLine) -> None:
  """Writes a job's share of the configured DatasetConfig's caches and says what they hold."""
  configuration = gin_setup.load_command_line(command_line, CONFIGURABLES, "DatasetConfig")
  dataset: DatasetConfig = configuration.call("DatasetConfig")
  job, jobs = command_line.job or (0, 1)
  before = 0  # shards of earlier tasks: counted on, so that many small tasks are shared as well
  for task in dataset.components():
    directory = cache.cache_directory(dataset_lib.cache_root(dataset), task)
    written = dataset_lib.write_cache(task, directory, job=(job - before) % jobs, jobs=jobs)
    print(f"{task.name}: {directory}")
    if isinstance(written, cache.Unfinished):
      print(_progress(written, before, jobs))
    else:
      for name, split in written.splits.items():
        print(
          f"  {name:<12} {split.documents:>10,} documents {split.tokens:>14,} tokens "
          f"{len(split.shards):>6,} shard{'s' * (len(split.shards) != 1)}"
        )
      if written.lines_read or written.lines_skipped:
        print(f"  {written.lines_read:,} lines read, {written.lines_skipped:,} lines skipped")
      if written.skipped:
        print(f"  {written.skipped:,} faulty document{'s' * (written.skipped != 1)} skipped")
    before += written.total


def _progress(unfinished: cache.Unfinished, before: int, jobs: int) -> str:
  """Says how many shards are there, and which jobs have not written theirs."""
  missing = sorted({(before + number) % jobs for number in unfinished.missing})
  named = ", ".join(f"--job={job}/{jobs}" for job in missing[:_SHOWN_JOBS])
  more = f" and {len(missing) - _SHOWN_JOBS} more" if len(missing) > _SHOWN_JOBS else ""
  done = unfinished.total - len(unfinished.missing)
  return f"  {done:,} of {unfinished.total:,} shards are there; not yet those of {named}{more}"
