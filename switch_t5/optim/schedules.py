# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules, written as T5X writes them: factors joined by `*`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import jax.numpy as jnp
import optax

from switch_t5.errors import ConfigError, suggest
from switch_t5.types import Array


def learning_rate_schedule(
  factors: str = "constant * rsqrt_decay",
  base_learning_rate: float = 1.0,
  warmup_steps: int = 10_000,
  decay_factor: float = 0.5,
  steps_per_decay: int = 20_000,
  steps_per_cycle: int = 100_000,
  step_offset: int = 0,
  min_learning_rate: float = 1e-8,
) -> optax.Schedule:
  """Makes a schedule: the product of its factors at a step t, at least `min_learning_rate`.

  The defaults are T5's pretraining schedule, 1 / sqrt(max(t, 10000)); T5's fine-tuning schedule is
  `factors="constant", base_learning_rate=1e-3`. With w = warmup_steps, t counted from `step_offset`:

    constant                base_learning_rate
    linear_warmup           min(1, t / w)
    linear_decay            base_learning_rate * min(t / w, 1 + decay_factor * (w - t)); it contains
                            `constant` and `linear_warmup`
    rsqrt_decay             1 / sqrt(max(t, w))
    rsqrt_normalized_decay  sqrt(w) / sqrt(max(t, w))
    decay_every             decay_factor ** floor(t / steps_per_decay)
    cosine_decay            (1 + cos(pi * c)) / 2, where c is the fractional part of
                            max(0, t - w) / steps_per_cycle

  Args:
    factors: names of factors, joined by `*`.
    base_learning_rate: of `constant` and `linear_decay`.
    warmup_steps: w.
    decay_factor: what `decay_every` multiplies by; the slope of `linear_decay`, per step.
    steps_per_decay: of `decay_every`.
    steps_per_cycle: of `cosine_decay`.
    step_offset: the step that is t = 0 (fine-tuning counts on from pretraining); t is 0 before it.
    min_learning_rate: the least rate, for factors that fall to zero or below.

  Returns:
    A function from a step, an integer (or int32 []), to the learning rate, float32 [].

  Raises:
    ConfigError: for an unknown factor or a number of steps that is not positive.
  """
  _check_positive("warmup_steps", warmup_steps)
  _check_positive("steps_per_decay", steps_per_decay)
  _check_positive("steps_per_cycle", steps_per_cycle)

  def cosine(t):
    progress = jnp.maximum(0.0, (t - warmup_steps) / steps_per_cycle)
    return 0.5 * (1.0 + jnp.cos(jnp.pi * (progress % 1.0)))

  known: dict[str, Callable[[Array], Array | float]] = {
    "constant": lambda t: base_learning_rate,
    "linear_warmup": lambda t: jnp.minimum(1.0, t / warmup_steps),
    "linear_decay": lambda t: (
      base_learning_rate * jnp.minimum(t / warmup_steps, 1.0 + decay_factor * (warmup_steps - t))
    ),
    "rsqrt_decay": lambda t: jnp.maximum(t, warmup_steps) ** -0.5,
    "rsqrt_normalized_decay": lambda t: jnp.maximum(t / warmup_steps, 1.0) ** -0.5,
    "decay_every": lambda t: decay_factor ** (t // steps_per_decay),
    "cosine_decay": cosine,
  }
  names = [name.strip() for name in factors.split("*")]
  for name in names:
    _check_known(name, factors, known)

  def schedule(step):
    t = jnp.maximum(jnp.asarray(step, jnp.int32) - step_offset, 0).astype(jnp.float32)
    rate = jnp.ones((), jnp.float32)
    for name in names:
      rate = rate * known[name](t)
    return jnp.maximum(rate, min_learning_rate)

  return schedule


def _check_positive(name: str, steps: int) -> None:
  if steps < 1:
    raise ConfigError(
      f"{name} is not positive.",
      value=steps,
      rule=f"{name} >= 1",
      remedy=f"set {name} to 1 or more",
    )


def _check_known(name: str, factors: str, known: Iterable[str]) -> None:
  if name not in known:
    raise ConfigError(
      "Unknown factor of the learning rate.",
      value=f"{name!r} in factors={factors!r}",
      rule=f"factors are joined by '*' and each is one of {', '.join(known)}",
      remedy=suggest(name, known),
    )
