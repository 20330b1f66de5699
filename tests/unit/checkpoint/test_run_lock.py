# SPDX-License-Identifier: Apache-2.0
"""One run per MODEL_DIR, whatever ended the run before."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest

from switch_t5.checkpoint.run_lock import RunLock, run_lock
from switch_t5.errors import ConfigError

_HOLD = (
  "import sys, time\n"
  "from switch_t5.checkpoint.run_lock import RunLock\n"
  "with RunLock(sys.argv[1]):\n"
  "  print('held', flush=True)\n"
  "  time.sleep(60)\n"
)


def _snapshot(directory):
  return {
    path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
    for path in [directory, *directory.rglob("*")]
  }


def test_a_second_run_is_refused_and_writes_nothing(tmp_path):
  with RunLock(tmp_path):
    before = _snapshot(tmp_path)
    with pytest.raises(ConfigError) as refused, RunLock(tmp_path):
      pass
    assert _snapshot(tmp_path) == before
  message = str(refused.value)
  assert refused.value.exit_code == 2
  assert str(tmp_path) in message
  assert f"process {os.getpid()} on {socket.gethostname()}, started 20" in message
  assert "remedy" in message


def test_the_lock_is_free_after_the_run(tmp_path):
  for _ in range(2):
    with RunLock(tmp_path / "new" / "run"):
      pass


def test_kill_9_leaves_nothing_that_blocks(tmp_path):
  with subprocess.Popen(
    [sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
  ) as holder:
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=f"process {holder.pid} "), RunLock(tmp_path):
      pass
    holder.send_signal(signal.SIGKILL)
  with RunLock(tmp_path):
    pass


@pytest.mark.parametrize("name", ["file", "file/below", "file/far/below"])
def test_a_model_dir_that_cannot_be_used_is_named(tmp_path, name):
  (tmp_path / "file").write_text("")
  before = _snapshot(tmp_path)
  with pytest.raises(ConfigError, match="cannot be written") as refused, RunLock(tmp_path / name):
    pass
  assert str(tmp_path / name) in str(refused.value)
  assert _snapshot(tmp_path) == before


@pytest.mark.parametrize("path", ["gs:/bucket/run", "hdfs://cluster/run"])
def test_another_store_is_refused_rather_than_made_a_local_directory(tmp_path, monkeypatch, path):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ConfigError, match=path):
    run_lock(path)
  assert list(tmp_path.iterdir()) == []
