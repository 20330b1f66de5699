# SPDX-License-Identifier: Apache-2.0
"""Start-up of JAX: with the other processes of a run, and on the devices that were asked for."""

from __future__ import annotations

import jax

from switch_t5.cli import platform
from switch_t5.cli.flags import CommandLine
from switch_t5.errors import ConfigError


def start(command_line: CommandLine) -> None:
  """Starts JAX as the flags say; compiled programs are kept between runs.

  Raises:
    ConfigError: see `join`; or the platform that was asked for is not there.
  """
  join(command_line)
  platform.require(command_line.platform)
  platform.use_compilation_cache()


def join(command_line: CommandLine) -> None:
  """Joins the other processes if `--coordinator_address` says that there are some.

  It must come before any use of devices, and before our signal handlers: it installs its own.

  Raises:
    ConfigError: if the three flags do not belong together.
  """
  address = command_line.coordinator_address
  count, index = command_line.process_count, command_line.process_index
  if address is None and count is None and index is None:
    return
  if address is None or count is None or index is None or index >= count:
    raise ConfigError(
      "The flags of a run of several processes do not belong together.",
      value=f"--coordinator_address={address} --process_count={count} --process_index={index}",
      rule="all three are given to every process; the index is from 0 to the count less 1",
      remedy="--coordinator_address=HOST:PORT --process_count=2 --process_index=0, and 1",
    )
  jax.distributed.initialize(address, num_processes=count, process_id=index)
