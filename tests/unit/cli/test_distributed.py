# SPDX-License-Identifier: Apache-2.0
"""What the processes of a run must have alike, and the flags that make them one."""

from __future__ import annotations

import jax
import pytest

from switch_t5.cli import distributed, flags
from switch_t5.errors import ConfigError, MeshError


@pytest.mark.parametrize(
  ("argv", "value"),
  [
    (["--coordinator_address=localhost:1"], "--process_count=None"),
    (["--process_count=2", "--process_index=0"], "--coordinator_address=None"),
    (
      ["--coordinator_address=localhost:1", "--process_count=2", "--process_index=2"],
      "--process_index=2",
    ),
    (
      ["--coordinator_address=localhost", "--process_count=2", "--process_index=0"],
      "localhost: no HOST:PORT",
    ),
    (
      ["--coordinator_address=localhost:99999", "--process_count=2", "--process_index=0"],
      "no HOST:PORT",
    ),
    (
      ["--coordinator_address=no.such.host.invalid:80", "--process_count=2", "--process_index=0"],
      "no.such.host.invalid:80: ",
    ),
  ],
)
def test_flags_that_make_no_run_of_processes_are_refused(argv, value):
  with pytest.raises(ConfigError) as refused:
    distributed.join(flags.parse(["train", *argv]))
  assert value in str(refused.value.value)


def test_without_a_scheduler_nothing_can_be_asked_for_the_address(monkeypatch):
  def initialize(*_, **__):  # JAX's, in a process that has used no device yet
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  with pytest.raises(ConfigError, match=r"auto is for TPUs(.|\n)*name all three"):
    distributed.join(flags.parse(["train", "--coordinator_address=auto"]))


def test_processes_that_differ_are_told_by_key(monkeypatch):
  others = [{"a": 1, "b": 2}, {"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}]
  monkeypatch.setattr(distributed, "from_all_processes", lambda mine: others)
  with pytest.raises(ConfigError) as refused:
    distributed.agree("Not alike.", others[0])
  assert refused.value.value.splitlines() == [
    "b: 2 in process 0, 3 in process 2",
    "          c: None in process 0, 4 in process 2",
  ]


def test_many_differences_are_counted(monkeypatch):
  monkeypatch.setattr(
    distributed, "from_all_processes", lambda mine: [mine, dict.fromkeys(mine, 1)]
  )
  with pytest.raises(ConfigError, match="and 15 more"):
    distributed.agree("Not alike.", dict.fromkeys(map(str, range(20)), 0))


def test_processes_that_are_alike_agree(monkeypatch):
  monkeypatch.setattr(distributed, "from_all_processes", lambda mine: [mine, dict(mine)])
  distributed.agree("Not alike.", {"a": 1})


def test_uneven_hosts_are_refused():
  distributed.check_even({0: 4, 1: 4})
  with pytest.raises(MeshError, match="process 1: 3"):
    distributed.check_even({0: 4, 1: 3})
