# SPDX-License-Identifier: Apache-2.0
"""Which host keeps the others waiting: what each does itself in a step, gathered at each log line.

A step takes all processes equally long, since its collectives wait for the slowest. What differs is the
time in which a process does not wait for its devices: reading input, placing it, handing over the step.
Devices that are slow themselves cannot be told from those that wait for them.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from switch_t5.sharding.placement import from_all_processes

_TIMES_THE_MEDIAN = 2.0
_OF_A_STEP = 0.1  # what costs less is not worth a line


class HostSpread:
  """Gathers, in a run of several processes, and names a host that is slow. All processes make one.

  Args:
    say: tells the user.
  """

  def __init__(self, say: Callable[[str], None]):
    self._say = say
    self._names = from_all_processes(socket.gethostname())

  def __call__(self, host_seconds: float, step_seconds: float) -> dict[str, float]:
    """Returns the metrics of a log line by public name; none in a run of one process.

    Args:
      host_seconds: of a step, this process's own.
      step_seconds: of a step, altogether.
    """
    if jax.process_count() == 1:
      return {}
    gathered = multihost_utils.process_allgather(np.float32(host_seconds))
    slow = describe_slowest(gathered, step_seconds, self._names)
    if slow is not None:
      self._say(slow)
    return {
      "train/host_step_seconds_max": float(np.max(gathered)),
      "train/host_step_seconds_median": float(np.median(gathered)),
    }


def describe_slowest(
  host_seconds: np.ndarray, step_seconds: float, names: Sequence[str]
) -> str | None:
  """Returns a line about the slowest host if the others wait for it noticeably, or None.

  Args:
    host_seconds: [processes], of a step.
    step_seconds: of a step, altogether.
    names: of the processes' hosts.
  """
  slowest = int(np.argmax(host_seconds))
  most, median = float(host_seconds[slowest]), float(np.median(np.delete(host_seconds, slowest)))
  if most <= _TIMES_THE_MEDIAN * median or most - median <= _OF_A_STEP * step_seconds:
    return None
  return (
    f"Slow host: process {slowest} ({names[slowest]}) spends {most:.3g} s of a step of "
    f"{step_seconds:.3g} s outside its devices, the median of the others is {median:.3g} s"
  )
