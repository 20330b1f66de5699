# SPDX-License-Identifier: Apache-2.0
"""Start-up of JAX: with the other processes of a run, and on the devices that were asked for."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform as python_platform
import socket
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from switch_t5.cli import platform
from switch_t5.cli.configuration import Configuration
from switch_t5.cli.flags import AUTO, CommandLine
from switch_t5.cli.run_record import PACKAGES
from switch_t5.cli.supervisor import START_FACTOR
from switch_t5.data.vocabulary import Vocabulary, embedded_vocabulary_path
from switch_t5.errors import ConfigError, MeshError, PeerLostError
from switch_t5.sharding.placement import from_all_processes

_TOGETHER = "--coordinator_address=HOST:PORT --process_count=2 --process_index=0, and 1"
_FLAGS = ("arguments", "from_path", "dry_run", "trace_steps", "job", "to", "json")
_SHOWN = 5


def start(command_line: CommandLine, configuration: Configuration) -> None:
  """Starts JAX as the flags say; compiled programs are kept between runs.

  Raises:
    ConfigError: see `join`; or the platform that was asked for is not there, or the processes were
      not started alike.
    MeshError: if they have not equally many devices.
    DataError: if there is no vocabulary.
  """
  join(command_line)
  platform.require(command_line.platform)
  platform.use_compilation_cache()
  if jax.process_count() > 1:
    check_even(Counter(device.process_index for device in jax.devices()))
    agree("The processes of the run were not started alike.", identity(command_line, configuration))


def join(command_line: CommandLine) -> None:
  """Joins the other processes if `--coordinator_address` says that there are some.

  It must come before any use of devices, and before our signal handlers: it installs its own. A
  process that is lost, now or later, ends this one: see `supervisor`.

  Raises:
    ConfigError: if the flags do not belong together, or the address is none.
    PeerLostError: if process 0 cannot serve the others.
  """
  address = command_line.coordinator_address
  count, index = command_line.process_count, command_line.process_index
  if address is None and count is None and index is None:
    return
  timeout = command_line.peer_timeout
  given = f"--coordinator_address={address} --process_count={count} --process_index={index}"
  if address != AUTO:
    if address is None or count is None or index is None or index >= count:
      raise ConfigError(
        "The flags of a run of several processes do not belong together.",
        value=given,
        rule="all three are given to every process; the index is from 0 to the count less 1",
        remedy=f"{_TOGETHER}; or --coordinator_address=auto, which asks the scheduler",
      )
    _check_address(address)
  try:
    jax.distributed.initialize(
      None if address == AUTO else address,
      num_processes=count,
      process_id=index,
      # Else Slurm gives each process one GPU, though it has all of its node's.
      cluster_detection_method=None if address == AUTO else "deactivate",
      heartbeat_timeout_seconds=timeout,
      initialization_timeout=START_FACTOR * timeout,
    )
  except ValueError as error:
    raise ConfigError(
      "The processes of the run cannot be found.",
      value=f"{given}: {error}",
      rule="auto is for TPUs, Slurm, Open MPI and Kubernetes",
      remedy=f"name all three: {_TOGETHER}",
    ) from None
  except RuntimeError as error:  # perhaps the process 0 of the last start still has the port
    raise PeerLostError(
      "The processes of the run cannot be joined.",
      value=f"{given}: {str(error).partition(chr(10))[0]}",
      rule="process 0 serves the others at HOST:PORT, a port that nothing else uses",
      remedy="run all processes again, with another port if it happens again",
    ) from None


def agree(what: str, mine: Mapping[str, Any]) -> None:
  """Checks that all processes have the same values; all of them must call it.

  Args:
    what: the error's sentence, if they have not.
    mine: JSON values of this process, by name.

  Raises:
    ConfigError: in each process; it names the first few keys, their values and the processes.
  """
  first, *others = from_all_processes(dict(mine))
  differing = []
  for index, other in enumerate(others, start=1):
    for name in sorted(first.keys() | other.keys()):
      if first.get(name) != other.get(name):
        values = f"{first.get(name)} in process 0, {other.get(name)} in process {index}"
        differing.append(f"{name}: {values}")
  if differing:
    more = len(differing) - _SHOWN
    raise ConfigError(
      what,
      value="\n          ".join(differing[:_SHOWN] + ([f"and {more} more"] if more > 0 else [])),
      rule="processes of one run differ in --process_index only",
      remedy="start each with the same flags, files and versions",
    )


def check_even(devices_of_process: Mapping[int, int]) -> None:
  """Raises MeshError unless every process has as many devices as the others."""
  if len(set(devices_of_process.values())) > 1:
    raise MeshError(
      "The processes of the run have not equally many devices.",
      value=", ".join(
        f"process {index}: {count}" for index, count in sorted(devices_of_process.items())
      ),
      rule="every host of a run has the same devices",
      remedy="leave out the hosts that lack some, or hide devices on the others",
    )


def identity(command_line: CommandLine, configuration: Configuration) -> dict[str, Any]:
  """Returns what all processes of a run must have alike before its data are opened."""
  values: dict[str, Any] = {"python": python_platform.python_version()}
  values |= {name: importlib.metadata.version(name) for name in PACKAGES}
  values["the code of switch_t5"] = _digest(Path(__file__).parents[1])
  for name in command_line.imports:
    file = getattr(sys.modules[name], "__file__", None)
    values[f"--import={name}"] = _digest(Path(file)) if file else None
  values |= {f"--{name}": repr(getattr(command_line, name)) for name in _FLAGS}
  for name, value in (configuration.macros() | configuration.bindings()).items():
    values[name] = repr(value)
    if name.endswith(".vocabulary_path"):  # the same path on two hosts may be two files
      path = value or embedded_vocabulary_path()
      values[f"the vocabulary of {name}"] = Vocabulary(path).fingerprint[:16]
  return values


def _digest(path: Path) -> str:
  """Returns a short hash of a file, or of the Python files below a folder and their names."""
  content = hashlib.sha256()
  for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
    content.update(file.name.encode() + file.read_bytes())
  return content.hexdigest()[:16]


def _check_address(address: str) -> None:
  """Raises ConfigError unless it is HOST:PORT of a host that is known here."""
  host, _, port = address.rpartition(":")
  reason = "" if host and port.isdecimal() and 0 < int(port) < 2**16 else "no HOST:PORT"
  if not reason:
    try:
      socket.getaddrinfo(host.strip("[]"), int(port))
    except OSError as error:
      reason = str(error.strerror)
  if reason:
    raise ConfigError(
      "The address of process 0 cannot be used.",
      value=f"--coordinator_address={address}: {reason}",
      rule="HOST:PORT, a host that all processes can look up and a port that is free on it",
      remedy="--coordinator_address=10.0.0.1:8476",
    )
