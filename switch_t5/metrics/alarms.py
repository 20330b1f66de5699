# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in a run of a Switch model, seen in what it logs: a line, the cause, what to change."""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

_ROUTER = "router/"


@dataclasses.dataclass(frozen=True)
class AlarmConfig:
  """When to sound an alarm; every limit is of a log window's means.

  Attributes:
    first_step: none before it: every router begins unbalanced.
    expert_load_max: the busiest expert's load over the mean: collapse. Of few experts, at most
      (1 + E) / 2.
    dead_experts: fraction of a router's experts that no token chose.
    fraction_dropped: of all choices.
    loss_spike: nats per target token above the median of the last windows.
    windows: how many are looked back on; also after how many good ones an alarm may sound again.
  """

  first_step: int = 200
  expert_load_max: float = 4.0
  dead_experts: float = 0.1
  fraction_dropped: float = 0.15
  loss_spike: float = 0.5
  windows: int = 10


class Alarm(NamedTuple):
  """What was seen at a step.

  Attributes:
    step: steps done.
    kind: collapse, dead experts, drops, router, spike.
    what: a sentence with the value.
    cause: the likely one.
    remedy: the gin line to change.
  """

  step: int
  kind: str
  what: str
  cause: str
  remedy: str

  def __str__(self) -> str:
    return (
      f"Alarm at step {self.step}: {self.what} Likely cause: {self.cause}. Change: {self.remedy}"
    )


class Alarms:
  """Looks at one log window after the other; an alarm sounds once, and again after it was quiet.

  Args:
    config: the limits.
    num_experts: E; 0 for a dense model.
  """

  def __init__(self, config: AlarmConfig, num_experts: int):
    self._config, self._num_experts = config, num_experts
    self._losses: collections.deque[float] = collections.deque(maxlen=config.windows)
    self._router_losses: collections.deque[float] = collections.deque(maxlen=config.windows)
    self._quiet: dict[str, int] = {}  # of kinds that sounded: windows since it was last so

  def see(self, step: int, metrics: Mapping[str, float]) -> list[Alarm]:
    """Returns the alarms that begin with this window.

    Args:
      step: of the window's end.
      metrics: by public name.
    """
    found = {alarm.kind: alarm for alarm in self._found(step, metrics)}
    begun = [alarm for kind, alarm in found.items() if kind not in self._quiet]
    quiet = {kind: windows + 1 for kind, windows in self._quiet.items()} | dict.fromkeys(found, 0)
    self._quiet = {k: windows for k, windows in quiet.items() if windows < self._config.windows}
    self._losses.append(metrics.get("train/cross_entropy", math.nan))
    self._router_losses.append(metrics.get("train/load_balance_loss", math.nan))
    return begun

  def _found(self, step: int, metrics: Mapping[str, float]) -> Iterator[Alarm]:
    config = self._config
    yield from self._spike(step, metrics)
    if not self._num_experts or step < config.first_step:
      return
    load, router = _greatest(metrics, "expert_load_max")
    if load > min(config.expert_load_max, (1 + self._num_experts) / 2):
      yield Alarm(
        step,
        "collapse",
        f"the busiest expert of {router} has {load:.1f} times the mean load.",
        "the load-balance loss is too weak for this learning rate",
        "LossConfig.load_balance_factor = 0.01, or ten times what it is",
      )
    dead, router = _greatest(metrics, "dead_experts")
    if dead > config.dead_experts:
      yield Alarm(
        step,
        "dead experts",
        f"{dead:.0%} of the experts of {router} got no token in the whole window.",
        "the router has settled on the others",
        "LossConfig.load_balance_factor = 0.1 for a while, or fewer experts (NUM_EXPERTS)",
      )
    dropped = metrics.get("train/fraction_dropped", 0.0)
    if dropped > config.fraction_dropped:
      yield Alarm(
        step,
        "drops",
        f"{dropped:.0%} of the choices found their expert full.",
        "groups of too few tokens, or an uneven load",
        "ModelConfig.sequences_per_group (larger), or ModelConfig.train_capacity_factor = 2.0",
      )
    yield from self._still(step, metrics, load)

  def _still(self, step: int, metrics: Mapping[str, float], load: float) -> Iterator[Alarm]:
    """A router loss that is exactly what it was: nothing learns from it."""
    now = metrics.get("train/load_balance_loss", math.nan)
    before = list(self._router_losses)
    if len(before) < self._config.windows or load < 1.5 or not now > 0:
      return
    if max(abs(value / now - 1) for value in before) < 1e-5:
      yield Alarm(
        step,
        "router",
        f"the load-balance loss has not moved for {len(before)} windows, and the load is uneven.",
        "the routers are not trained",
        "train.trained, or LossConfig.load_balance_factor",
      )

  def _spike(self, step: int, metrics: Mapping[str, float]) -> Iterator[Alarm]:
    now = metrics.get("train/cross_entropy", math.nan)
    before = [loss for loss in self._losses if math.isfinite(loss)]
    if len(before) < self._config.windows or not math.isfinite(now):
      return
    usual = statistics.median(before)
    if now > usual + self._config.loss_spike:
      yield Alarm(
        step,
        "spike",
        f"the cross-entropy rose from {usual:.2f} to {now:.2f} nats.",
        "a learning rate that is too high, or rows unlike the others",
        "a lower learning rate, or Adafactor.global_norm_clip_threshold = 1.0",
      )


def all_alarms(
  rows: Iterable[Mapping[str, float]], config: AlarmConfig, num_experts: int
) -> list[Alarm]:
  """Returns every alarm of a run, from its rows of metrics in the order of steps."""
  alarms = Alarms(config, num_experts)
  windows = (row for row in rows if "train/cross_entropy" in row)
  return [alarm for row in windows for alarm in alarms.see(int(row["step"]), row)]


def _greatest(metrics: Mapping[str, float], statistic: str) -> tuple[float, str]:
  """Returns the greatest value of a router's statistic, and the router."""
  ending = f"/{statistic}"
  values = [
    (value, name.removeprefix(_ROUTER).removesuffix(ending))
    for name, value in metrics.items()
    if name.startswith(_ROUTER) and name.endswith(ending)
  ]
  return max(values, default=(0.0, ""))
