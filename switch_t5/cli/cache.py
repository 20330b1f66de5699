# SPDX-License-Identifier: Apache-2.0
"""The mode `cache`: materialises a task or a mixture's tasks once, for any number of runs to read."""

from __future__ import annotations

from switch_t5.cli import dataset as dataset_lib
from switch_t5.cli import gin_setup
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.dataset import DatasetConfig
from switch_t5.cli.flags import CommandLine
from switch_t5.data import cache


def run(command_line: CommandLine) -> None:
  """Writes the caches of the configured DatasetConfig and says what they hold."""
  configuration = gin_setup.load_command_line(command_line, CONFIGURABLES, "DatasetConfig")
  dataset: DatasetConfig = configuration.call("DatasetConfig")
  for task in dataset.components():
    directory = dataset_lib.prepare_cache(dataset, task)
    info = cache.read_info(directory)
    print(f"{info.task}: {directory}")
    for name, split in info.splits.items():
      print(f"  {name:<12} {split.documents:>10,} documents {split.tokens:>14,} tokens")
