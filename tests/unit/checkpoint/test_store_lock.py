# SPDX-License-Identifier: Apache-2.0
"""The lock of a MODEL_DIR on an object store."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

import pytest

from switch_t5.checkpoint import store_lock
from switch_t5.checkpoint.run_lock import run_lock
from switch_t5.checkpoint.store_lock import LOCK
from switch_t5.errors import ConfigError
from switch_t5.storage import objects
from switch_t5.storage.location import location

HOLD = """
import sys
from switch_t5.checkpoint.run_lock import run_lock
with run_lock(sys.argv[1]):
  print('held', flush=True)
  sys.stdin.read()
"""


@pytest.fixture
def quick(monkeypatch):
  """Seconds in place of minutes."""
  monkeypatch.setattr(store_lock, "RENEW_SECONDS", 0.2)
  monkeypatch.setattr(store_lock, "STALE_SECONDS", 1.0)
  monkeypatch.setattr(store_lock, "GIVE_UP_SECONDS", 0.8)


def note_of(model_dir):
  return json.loads(objects.read(model_dir / LOCK))


def test_it_is_free_again_at_the_end(remote_prefix):
  model_dir = location(remote_prefix)
  for _ in range(2):
    with run_lock(model_dir):
      assert not note_of(model_dir)["released"]
    assert note_of(model_dir)["released"]


def test_a_run_on_the_same_machine_is_refused_at_once_and_writes_nothing(remote_prefix):
  holder = subprocess.Popen(
    [sys.executable, "-c", HOLD, remote_prefix], stdin=subprocess.PIPE, stdout=subprocess.PIPE
  )
  try:
    assert holder.stdout.readline() == b"held\n"
    before = note_of(location(remote_prefix))
    with pytest.raises(ConfigError, match=f"process {holder.pid} on"), run_lock(remote_prefix):
      pass
    assert note_of(location(remote_prefix)) == before
    holder.kill()
    holder.communicate()
    started = time.monotonic()
    with run_lock(remote_prefix):  # the kernel says that the holder is gone
      assert time.monotonic() - started < store_lock.STALE_SECONDS / 10
  finally:
    holder.kill()
    holder.communicate()


def test_a_holder_elsewhere_is_waited_for_and_refuses_by_its_renewal(gs_prefix, quick, monkeypatch):
  with run_lock(gs_prefix):
    monkeypatch.setattr(store_lock, "_machine", lambda: "another")
    with pytest.raises(ConfigError, match="Another run"), run_lock(gs_prefix):
      pass


def test_of_two_that_wait_for_a_stale_lock_one_gets_it(remote_prefix, quick):
  model_dir = location(remote_prefix)
  left = {"id": "x", "pid": 1, "host": "gone", "machine": "another", "released": False}
  objects.write(model_dir / LOCK, json.dumps(left).encode())
  outcomes = []

  def take():
    try:
      with run_lock(model_dir):
        outcomes.append("held")
        time.sleep(1.0)
    except ConfigError:
      outcomes.append("refused")

  threads = [threading.Thread(target=take) for _ in range(2)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert sorted(outcomes) == ["held", "refused"]


def test_a_holder_whose_lock_was_taken_ends_its_process_with_one_error(gs_prefix, monkeypatch):
  program = HOLD.replace(
    "with run_lock",
    "from switch_t5.checkpoint import store_lock\nstore_lock.RENEW_SECONDS = 0.2\nwith run_lock",
  )
  holder = subprocess.Popen(
    [sys.executable, "-c", program, gs_prefix],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  assert holder.stdout.readline() == b"held\n"
  other = {"id": "x", "pid": 7, "host": "elsewhere", "renewed": "now"}
  objects.write(location(gs_prefix) / LOCK, json.dumps(other).encode())
  assert holder.wait(timeout=30) == 3
  _, errors = holder.communicate()
  assert b"Another run took" in errors and b"process 7 on elsewhere" in errors
