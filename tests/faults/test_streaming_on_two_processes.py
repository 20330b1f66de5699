# SPDX-License-Identifier: Apache-2.0
"""Streaming on two processes: each has its shard and its position, and only two can go on."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import c4_form
import numpy as np
import pytest
import runs

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own

# Takes five batches, goes back to the position after two of them, and takes the other three again.
PROGRAM = """
import base64, json, sys
import switch_t5, jax
address, index, data_dir = sys.argv[1:]
jax.distributed.initialize(address, 2, int(index))
from switch_t5.cli.dataset import DatasetConfig
from switch_t5.cli.run_data import StreamedData
from switch_t5.sharding.mesh import MeshShape, make_mesh
from switch_t5.sharding.placement import local_rows
data = StreamedData(DatasetConfig(
  "c4_v220_span_corruption", {"inputs": 32, "targets": 8}, 8, tfds_data_dir=data_dir,
  reader="streaming",
))
rows = local_rows(make_mesh(MeshShape(jax.device_count(), 1, 1)), 8, 2)
reader = data.train_reader(rows)
def take(count):
  return [next(reader)["encoder_input_tokens"].tolist() for _ in range(count)]
first = take(2)
state = json.loads(json.dumps(reader.state()))
expected = take(3)
reader.restore(state)
with open(f"{data_dir}/{index}.json", "w") as file:
  json.dump([rows.tolist(), first, expected, take(3), state], file)
"""


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
  """What each of two processes has seen: rows, batches, and the position."""
  folder = tmp_path_factory.mktemp("tfds")
  c4_form.prepare(folder, "en", "2.2.0", {"train": 60, "validation": 20})
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  flags = "--xla_force_host_platform_device_count=2"
  started = [
    subprocess.Popen(
      [sys.executable, "-W", "ignore", "-c", PROGRAM, address, str(index), str(folder)],
      cwd=runs.ROOT,
      env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(runs.ROOT)},
      stdout=subprocess.DEVNULL,
    )
    for index in range(2)
  ]
  try:
    assert [process.wait(timeout=120) for process in started] == [0, 0]
  finally:
    for process in started:
      process.kill()
  return [json.loads((folder / f"{index}.json").read_text()) for index in range(2)], folder


def test_each_process_reads_its_rows_of_its_shard_and_goes_on_exactly(processes):
  (one, other), _ = processes
  assert sorted(one[0] + other[0]) == list(range(8))
  for _, first, expected, again, _ in (one, other):
    assert again == expected
    assert [len(batch) for batch in first + expected] == [4] * 5
  assert one[1] != other[1]


def test_the_position_holds_that_of_every_process(processes):
  (one, other), _ = processes
  assert one[4] == other[4]
  assert one[4]["processes"] == one[4]["shards"] == len(one[4]["iterators"]) == 2
  assert one[4]["iterators"][0] != one[4]["iterators"][1]


def test_one_process_does_not_go_on_with_it(processes):
  from switch_t5.cli.dataset import DatasetConfig
  from switch_t5.cli.run_data import StreamedData
  from switch_t5.errors import DataError

  results, folder = processes
  lengths = {"inputs": 32, "targets": 8}
  task = "c4_v220_span_corruption"
  dataset = DatasetConfig(task, lengths, 8, tfds_data_dir=str(folder), reader="streaming")
  reader = StreamedData(dataset).train_reader(np.arange(8))
  with pytest.raises(DataError, match="go on with that number of processes") as raised:
    reader.restore(results[0][4])
  assert "1 process(es), 1 shard(s), 8 rows" in raised.value.value
  assert "2 process(es), 2 shard(s), 4 rows" in raised.value.rule
