# SPDX-License-Identifier: Apache-2.0
"""Metrics of a run on an object store: a spool on this machine, and parts of it in MODEL_DIR."""

from __future__ import annotations

import json
import time

import pytest

from switch_t5.errors import ConfigError, StorageError
from switch_t5.metrics import stored
from switch_t5.metrics.stored import StoredMetricsWriter, open_writer
from switch_t5.metrics.writer import METRICS_FILE, read_metrics
from switch_t5.storage import objects
from switch_t5.storage.location import location


@pytest.fixture(autouse=True)
def spool(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  return tmp_path / "switch_t5" / "spool"


def steps_of(model_dir):
  return [int(row["step"]) for row in read_metrics(model_dir / METRICS_FILE)]


def files_in(spool):
  return [path for path in spool.rglob("*") if path.is_file()]


def test_a_folder_has_a_writer_of_its_own_kind(tmp_path, gs_prefix):
  writer = open_writer(gs_prefix)
  assert isinstance(writer, StoredMetricsWriter)
  writer.close()
  writer = open_writer(tmp_path)
  assert not isinstance(writer, StoredMetricsWriter)
  writer.close()


def test_rows_of_all_starts_are_read_in_their_order_and_later_ones_win(remote_prefix, spool):
  model_dir = location(remote_prefix)
  assert steps_of(model_dir) == []
  for loss, steps in ((3.0, (10, 20)), (2.0, (20, 30))):
    writer = StoredMetricsWriter(model_dir)
    for step in steps:
      writer.write(step, {"train/loss": loss})
    writer.close()
  losses = {row["step"]: row["train/loss"] for row in read_metrics(model_dir / METRICS_FILE)}
  assert losses == {10: 3.0, 20: 2.0, 30: 2.0}
  assert files_in(spool) == []
  names = list(objects.sizes(model_dir))
  assert len([name for name in names if name.startswith("events/events.out.tfevents")]) == 2


def test_parts_are_put_while_the_run_goes_on_and_have_a_bounded_size(gs_prefix, monkeypatch):
  monkeypatch.setattr(stored, "UPLOAD_SECONDS", 0.05)
  monkeypatch.setattr(stored, "PART_BYTES", 100)
  model_dir = location(gs_prefix)
  writer = StoredMetricsWriter(model_dir)
  for step in range(20):
    writer.write(step, {"train/loss": 1.0})
  deadline = time.monotonic() + 20
  while steps_of(model_dir) != list(range(20)):
    assert time.monotonic() < deadline
  writer.write(20, {"train/loss": 1.0})
  writer.close()
  assert steps_of(model_dir) == list(range(21))
  sizes = objects.sizes(model_dir / "metrics").values()
  assert len(sizes) > 3 and max(sizes) < 200


def test_what_a_killed_run_left_in_the_spool_is_put_by_the_next_without_its_torn_line(
  gs_prefix, spool
):
  model_dir = location(gs_prefix)
  killed = StoredMetricsWriter(model_dir)
  killed.write(10, {"train/loss": 3.0})
  (lines,) = spool.rglob(METRICS_FILE)
  with lines.open("ab") as file:
    file.write(b'{"step": 20, "tra')
  assert steps_of(model_dir) == []
  following = StoredMetricsWriter(model_dir)
  assert steps_of(model_dir) == [10]
  following.write(30, {"train/loss": 2.0})
  following.close()
  assert steps_of(model_dir) == [10, 30]


def test_a_copy_of_a_model_dir_on_disk_is_read_as_well(gs_prefix, tmp_path):
  writer = StoredMetricsWriter(location(gs_prefix))
  writer.write(10, {"train/loss": 3.0})
  writer.close()
  copy = tmp_path / "copy"
  for name in objects.sizes(location(gs_prefix)):
    path = copy / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(objects.read(location(gs_prefix) / name))
  assert steps_of(copy) == [10]


def test_a_store_that_fails_is_told_by_the_next_line_and_nothing_is_lost_here(
  gs_prefix, spool, monkeypatch
):
  monkeypatch.setattr(stored, "UPLOAD_SECONDS", 0.05)
  writer = StoredMetricsWriter(location(gs_prefix))

  def fail(path, content):
    raise StorageError("The object store fails.")

  monkeypatch.setattr(objects, "write", fail)
  with pytest.raises(StorageError):
    for step in range(1000):
      writer.write(step, {"train/loss": 1.0})
      time.sleep(0.01)
  with pytest.raises(StorageError):
    writer.close()
  (lines,) = spool.rglob(METRICS_FILE)
  assert json.loads(lines.read_text().splitlines()[0])["step"] == 0


def test_a_machine_without_a_place_for_the_spool_is_told(gs_prefix, tmp_path, monkeypatch):
  (tmp_path / "file").write_text("")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  with pytest.raises(ConfigError, match="XDG_CACHE_HOME"):
    StoredMetricsWriter(location(gs_prefix))
