# SPDX-License-Identifier: Apache-2.0
"""How rows of a plan without capacity reach the devices of their experts, and come back.

Every device knows from the counts of all devices along the expert axis which rows it gets. What
arrives lies by source device and is put in the order of this device's experts, so that one grouped
matmul works through it:

  rows [T * k, d/m], by expert -ragged exchange-> [e * T * k, d/m], by source, then expert
    -gather-> by expert, then source

Nothing bounds how many rows go to one device, so it has room for all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from switch_t5.layers.moe.exchange import ragged_exchange, sum_before
from switch_t5.sharding.mesh import EXPERT
from switch_t5.types import Array


class Route(NamedTuple):
  """The way of this device's rows.

  Attributes:
    sent: int32 [e, e], rows from each device to each.
    group_sizes: int32 [E/e], rows of each expert here.
    order: int32 [e * T * k], for each row by expert, which arrived row it is.
    rank: int32 [e * T * k], the inverse.
  """

  sent: Array
  group_sizes: Array
  order: Array
  rank: Array


def plan_route(group_sizes: Array, num_rows: int) -> Route:
  """Agrees with the other devices along the expert axis; they exchange E counts each.

  Args:
    group_sizes: int32 [E], rows of each expert on this device.
    num_rows: T * k.
  """
  devices = jax.lax.axis_size(EXPERT)
  counts = jax.lax.all_gather(group_sizes, EXPERT).reshape(devices, devices, -1)  # source, owner
  arriving = counts[:, jax.lax.axis_index(EXPERT)]  # [source, expert]
  order = _regroup(arriving, devices * num_rows)
  rank = _regroup(arriving.T, devices * num_rows)
  return Route(counts.sum(axis=-1), arriving.sum(axis=0), order, rank)


def _regroup(sizes: Array, num_rows: int) -> Array:
  """Returns int32 [num_rows]: from rows in order (i, j) to the same rows in order (j, i).

  Args:
    sizes: int32 [i, j], rows of each run.
    num_rows: at least their sum; rows beyond it stay where they are.
  """
  starts = sum_before(sizes.reshape(-1), axis=0).reshape(sizes.shape)
  new_ends = jnp.cumsum(sizes.T.reshape(-1))
  row = jnp.arange(num_rows, dtype=jnp.int32)
  run = jnp.searchsorted(new_ends, row, side="right").astype(jnp.int32)
  last = new_ends.size - 1
  run_in = jnp.minimum(run, last)
  offset = row - sum_before(sizes.T.reshape(-1), axis=0)[run_in]
  return jnp.where(run > last, row, starts.T.reshape(-1)[run_in] + offset)


def send(rows: Array, route: Route) -> Array:
  """Maps [T * k, w], by expert, to this device's experts' rows, [e * T * k, w], by expert."""
  out_rows = rows.shape[0] * route.sent.shape[0]
  arrived = ragged_exchange(rows, route.sent, EXPERT, out_rows)
  return _permute(arrived, route.order, route.rank)


def send_back(rows: Array, route: Route) -> Array:
  """The inverse of `send`."""
  num_rows = rows.shape[0] // route.sent.shape[0]
  return ragged_exchange(_permute(rows, route.rank, route.order), route.sent.T, EXPERT, num_rows)


@jax.custom_vjp
def _permute(x: Array, index: Array, inverse: Array) -> Array:
  """Returns x[index]; its transpose is a gather by the inverse."""
  return x[index]


def _permute_forward(x, index, inverse):
  return x[index], inverse


def _permute_backward(inverse, g):
  return g[inverse], None, None


_permute.defvjp(_permute_forward, _permute_backward)
