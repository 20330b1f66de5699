# SPDX-License-Identifier: Apache-2.0
"""The all-to-all of which each pair of devices has its own number of rows."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from switch_t5.types import Array


def ragged_exchange(x: Array, counts: Array, axis_name: str, out_rows: int) -> Array:
  """Sends rows of x to the devices along `axis_name`, inside a shard_map that is manual over it.

  The rows lie in the order of their destinations, and arrive in the order of their sources:

    x     rows for device 0 | rows for device 1 | ... | others
    out   rows of device 0  | rows of device 1  | ... | zeros

  With one device along the axis nothing is sent: x is cut off, or extended by zeros, and rows
  beyond counts[0, 0] stay what they are. The gradient is the exchange with counts transposed.

  Args:
    x: [R, w], varying over all manual axes over which counts vary.
    counts: int32 [e, e], rows that device i sends to device j; each device knows all of it, and the
      sum of a row is at most R, that of a column at most `out_rows`.
    axis_name: of e devices.
    out_rows: static, the same on all devices.

  Returns:
    [out_rows, w].
  """
  return _exchange(x, counts, axis_name, x.shape[0], out_rows)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _exchange(x, counts, axis_name, in_rows, out_rows):
  if jax.lax.axis_size(axis_name) == 1:
    return jnp.pad(x[:out_rows], ((0, max(0, out_rows - in_rows)), (0, 0)))
  # XLA CPU has no ragged all-to-all; what emulates devices in one memory may as well gather.
  return jax.lax.platform_dependent(
    x,
    counts,
    cpu=partial(_by_all_gather, axis_name=axis_name, out_rows=out_rows),
    default=partial(_by_ragged_all_to_all, axis_name=axis_name, out_rows=out_rows),
  )


def _exchange_forward(x, counts, axis_name, in_rows, out_rows):
  return _exchange(x, counts, axis_name, in_rows, out_rows), counts


def _exchange_backward(axis_name, in_rows, out_rows, counts, g):
  return _exchange(g, counts.T, axis_name, out_rows, in_rows), None


_exchange.defvjp(_exchange_forward, _exchange_backward)


def sum_before(counts: Array, axis: int) -> Array:
  """Returns the sums of what comes before each entry along the axis."""
  return jnp.cumsum(counts, axis=axis) - counts


def _by_ragged_all_to_all(x: Array, counts: Array, *, axis_name: str, out_rows: int) -> Array:
  """The exchange where XLA has the collective: only the rows that are sent cross devices."""
  here = jax.lax.axis_index(axis_name)
  return jax.lax.ragged_all_to_all(
    x,
    jnp.zeros_like(x, shape=(out_rows, x.shape[1])),
    sum_before(counts, axis=1)[here],
    counts[here],
    sum_before(counts, axis=0)[here],  # where they lie on the devices that receive them
    counts[:, here],
    axis_name=axis_name,
  )


def _by_all_gather(x: Array, counts: Array, *, axis_name: str, out_rows: int) -> Array:
  """The exchange as an all-gather and one gather of rows."""
  here = jax.lax.axis_index(axis_name)
  received = counts[:, here]
  ends = jnp.cumsum(received)
  row = jnp.arange(out_rows, dtype=jnp.int32)
  source = (row[:, None] >= ends[None, :]).sum(axis=1, dtype=jnp.int32)  # e beyond what is received
  # Beyond what is received, source * R is out of range already, and the rest is not negative.
  place = (sum_before(counts, axis=1)[:, here] - (ends - received)).at[source].get(mode="clip")
  everything = jax.lax.all_gather(x, axis_name, tiled=True)
  index = source * x.shape[0] + row + place
  return everything.at[index].get(mode="fill", fill_value=0)
