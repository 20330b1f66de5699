# SPDX-License-Identifier: Apache-2.0
"""A store that is slow and fails now and then is tried again; one that is down ends in one error."""

from __future__ import annotations

import asyncio
import functools

import flaky_proxy
import jax.numpy as jnp
import numpy as np
import object_stores
import pytest

from switch_t5.checkpoint.listing import list_checkpoints
from switch_t5.checkpoint.manager import CheckpointManager
from switch_t5.errors import CheckpointError, StorageError
from switch_t5.storage import objects, retries
from switch_t5.storage.kvstore import ConditionalObject
from switch_t5.storage.location import location

RATES = {
  flaky_proxy.REFUSED: 0.04,
  flaky_proxy.RESET: 0.04,
  flaky_proxy.LOST: 0.04,
  flaky_proxy.SLOW: 0.04,
}


@pytest.fixture
def proxy(gs_store, monkeypatch):
  """A flaky way to the store of gs://; the libraries do not wait long before they try again."""
  monkeypatch.setattr("gcsfs.retry.asyncio.sleep", functools.partial(asyncio.sleep, 0))
  monkeypatch.setattr(retries, "FIRST_DELAY", 0.01)
  with flaky_proxy.flaky(gs_store, seed=1, rates=RATES, delay=0.1) as made:
    for name, value in object_stores.environment("gs", made.address).items():
      monkeypatch.setenv(name, value)
    yield made


def test_a_checkpoint_is_saved_and_restored_through_a_flaky_store(proxy, gs_prefix):
  state = {"params": {"kernel": jnp.arange(300.0)}}
  manager = CheckpointManager(f"{gs_prefix}/checkpoints", keep=2)
  for step in range(1, 4):
    manager.save(step, state, data_state={"step": step}, config_text="")
  manager.close()
  restored = CheckpointManager(f"{gs_prefix}/checkpoints").restore(state)
  assert restored.step == 3 and restored.data_state == {"step": 3}
  np.testing.assert_array_equal(restored.state["params"]["kernel"], state["params"]["kernel"])
  infos = list_checkpoints(f"{gs_prefix}/checkpoints", verify=True)
  assert [(info.step, info.problems) for info in infos] == [(2, []), (3, [])]
  assert sum(proxy.happened[fault] for fault in RATES) >= 5, proxy.happened


def test_a_store_that_is_down_ends_in_one_error_with_object_tries_and_time(
  proxy, gs_prefix, monkeypatch
):
  manager = CheckpointManager(f"{gs_prefix}/checkpoints")
  manager.save(1, {"a": jnp.ones(3)}, data_state={}, config_text="")
  manager.wait()
  monkeypatch.setattr(retries, "ATTEMPTS", 1)
  proxy.down = True
  with pytest.raises(StorageError, match=f"{gs_prefix}/one") as ended:
    objects.read(location(gs_prefix) / "one")
  assert "tried 1 times in" in str(ended.value)
  with pytest.raises(StorageError, match=f"{gs_prefix}/two"):
    ConditionalObject(location(gs_prefix) / "two").read()
  with pytest.raises((CheckpointError, StorageError), match=gs_prefix):
    manager.save(2, {"a": jnp.ones(3)}, data_state={}, config_text="")
    manager.wait()
  monkeypatch.undo()
  proxy.down = False
  assert [info.step for info in list_checkpoints(f"{gs_prefix}/checkpoints", verify=True)] == [1]
