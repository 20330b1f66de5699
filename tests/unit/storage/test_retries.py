# SPDX-License-Identifier: Apache-2.0
"""How often a store is asked again."""

from __future__ import annotations

import pytest

from switch_t5.errors import StorageError
from switch_t5.storage import retries
from switch_t5.storage.retries import retried


@pytest.fixture(autouse=True)
def no_delay(monkeypatch):
  monkeypatch.setattr("time.sleep", lambda seconds: None)


def failing(times, error):
  """Returns a call that fails some times, then returns how often it was made."""
  calls = []

  def call():
    calls.append(None)
    if len(calls) <= times:
      raise error
    return len(calls)

  return call


def test_what_passes_is_tried_again():
  assert retried("gs://b/o", failing(3, ConnectionError("reset"))) == 4


def test_after_the_last_attempt_one_error_names_object_tries_and_time():
  with pytest.raises(StorageError) as ended:
    retried("gs://b/o", failing(100, ConnectionError("reset")))
  assert ended.value.exit_code == 3
  for said in ("gs://b/o", f"tried {retries.ATTEMPTS} times in 0 s", "reset"):
    assert said in str(ended.value)


@pytest.mark.parametrize("error", [PermissionError("no"), OSError("Forbidden: b/o")])
def test_a_refusal_is_not_tried_again(error):
  call = failing(1, error)
  with pytest.raises(StorageError, match="credentials"):
    retried("gs://b/o", call)
  assert call() == 2


@pytest.mark.parametrize("error", [FileNotFoundError, FileExistsError, TypeError])
def test_what_is_no_failure_of_the_store_is_passed_on(error):
  with pytest.raises(error):
    retried("gs://b/o", failing(1, error()))
