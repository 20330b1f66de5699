# SPDX-License-Identifier: Apache-2.0
"""Matmuls of rows that lie sorted by expert, with each expert's own kernel and number of rows.

TPU and GPU have `jax.lax.ragged_dot`. XLA CPU expands it into a matmul of all rows for each expert,
so there a loop takes the experts that have rows, and for each of them its rows in blocks: the time
grows with the rows and the kernels in use. All blocks have one shape, so that the bits of a row's
result depend neither on the other rows nor on its place among them, only on the block's size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from switch_t5.layers.dense import kept_apart
from switch_t5.types import Array

LARGEST_BLOCK = 160  # larger ones gain little and leave more places empty
FEWEST_ROWS = 8  # per expert; with fewer, row by row is faster: kernels are read, never packed


@jax.custom_vjp
def grouped_matmul(x: Array, kernel: Array, group_sizes: Array) -> Array:
  """Returns x[r] @ kernel[expert of row r]; rows of no expert give zeros, and get zero gradients.

  Args:
    x: [R, in]; the first group_sizes[0] rows are expert 0's, the next group_sizes[1] expert 1's ...
    kernel: [E, in, out], of x's dtype and varying over the same manual axes.
    group_sizes: int32 [E], with a sum of at most R.

  Returns:
    [R, out].
  """
  return jax.lax.platform_dependent(
    x, kernel, group_sizes, cpu=_matmul_in_blocks, default=_ragged_matmul
  )


def _forward(x, kernel, group_sizes):
  return grouped_matmul(x, kernel, group_sizes), (x, kernel, group_sizes)


def _backward(residuals, g):
  dx, dkernel = jax.lax.platform_dependent(
    *residuals, g, cpu=_backward_in_blocks, default=_ragged_backward
  )
  return dx, dkernel, None


grouped_matmul.defvjp(_forward, _backward)


def _ragged_matmul(x, kernel, group_sizes):
  return _zero_beyond(jax.lax.ragged_dot(x, kernel, group_sizes), group_sizes)


def _ragged_backward(x, kernel, group_sizes, g):
  _, transpose = jax.vjp(lambda x, kernel: jax.lax.ragged_dot(x, kernel, group_sizes), x, kernel)
  dx, dkernel = transpose(g)
  return _zero_beyond(dx, group_sizes), dkernel


def _zero_beyond(y: Array, group_sizes: Array) -> Array:
  """Returns y with zeros in rows of no expert, which TPU kernels need not write."""
  row = jnp.arange(y.shape[0], dtype=jnp.int32)
  return jnp.where((row < group_sizes.sum())[:, None], y, jnp.zeros((), y.dtype))


def _blocks(rows: int, num_experts: int) -> tuple[int, int]:
  """Returns a block's size, and how many blocks hold the rows of most experts.

  That is, the mean and two standard deviations of a random even load. Both follow from shapes only.
  """
  mean = rows / num_experts
  most = mean + 2 * math.sqrt(mean)
  blocks = math.ceil(most / LARGEST_BLOCK)
  size = 16 * math.ceil(most / blocks / 16)
  return min(size, rows), blocks


def _matmul_in_blocks(x, kernel, group_sizes, transposed=False):
  """The product, or with kernel[e].T if `transposed`; kernels are copied once per expert in use."""
  rows, num_experts = x.shape[0], kernel.shape[0]
  size = 1 if rows < FEWEST_ROWS * num_experts else _blocks(rows, num_experts)[0]
  contracting = ((1,), (1 if transposed else 0,))

  def of_expert(expert, start, end, y):
    own_kernel = jax.lax.dynamic_index_in_dim(kernel, expert, keepdims=False)

    def of_block(block_start, y):
      rows_of_block, own = _block(x, block_start, end, size)
      product = jax.lax.dot_general(rows_of_block, own_kernel, (contracting, ((), ())))
      others, _ = _block(y, block_start, end, size)
      return _put(y, jnp.where(own, product, others), block_start)

    return _over_blocks(start, end, size, of_block, y)

  out = jnp.zeros_like(x, shape=(rows, kernel.shape[1 if transposed else 2]))
  ends = jnp.cumsum(group_sizes)
  return _over_experts(ends - group_sizes, group_sizes, of_expert, out)


def _backward_in_blocks(x, kernel, group_sizes, g):
  dx = _matmul_in_blocks(g, kernel, group_sizes, transposed=True)
  return dx, _dkernel_in_blocks(x, g, group_sizes)


def _dkernel_in_blocks(x, g, group_sizes):
  """Returns x.T @ g of each expert: of most rows in one batched matmul, of what exceeds it in a loop.

  A loop over all would write each gradient twice: zeros, then values.
  """
  rows, num_experts = x.shape[0], group_sizes.shape[0]
  size, blocks = _blocks(rows, num_experts)
  in_batch = size if blocks == 1 else 0
  starts = jnp.cumsum(group_sizes) - group_sizes
  place = jnp.arange(in_batch, dtype=jnp.int32)[None, :]
  row = starts[:, None] + place
  x_batch = x.at[jnp.where(place < group_sizes[:, None], row, rows)].get(mode="fill", fill_value=0)
  g_batch = g.at[row].get(mode="clip")
  dkernel = jnp.einsum("efn,eng->efg", kept_apart(x_batch.swapaxes(1, 2)), g_batch)

  def of_expert(expert, start, end, dkernel):
    def of_block(block_start, total):
      x_block, own = _block(x, block_start, end, size)
      x_block = jnp.where(own, x_block, jnp.zeros((), x.dtype))
      g_block, _ = _block(g, block_start, end, size)
      product = jnp.matmul(kept_apart(x_block.T), g_block, preferred_element_type=jnp.float32)
      return total + product

    total = jax.lax.dynamic_index_in_dim(dkernel, expert, keepdims=False).astype(jnp.float32)
    total = _over_blocks(start, end, size, of_block, total)
    return jax.lax.dynamic_update_index_in_dim(dkernel, total.astype(dkernel.dtype), expert, 0)

  return _over_experts(
    starts + in_batch, jnp.maximum(group_sizes - in_batch, 0), of_expert, dkernel
  )


def _over_experts(starts: Array, sizes: Array, of_expert: Callable, carry: Array) -> Array:
  """Applies of_expert(expert, start, end, carry) in turn to the experts whose size is not 0."""
  with_rows_first = jnp.argsort(sizes == 0, stable=True)

  def step(n, carry):
    expert = with_rows_first[n]
    return of_expert(expert, starts[expert], starts[expert] + sizes[expert], carry)

  return jax.lax.fori_loop(0, (sizes > 0).sum(dtype=jnp.int32), step, carry)


def _over_blocks(start: Array, end: Array, size: int, of_block: Callable, carry: Array) -> Array:
  """Applies of_block(start of block, carry) in turn to the blocks of rows from start to end."""

  def step(state):
    block_start, carry = state
    return block_start + size, of_block(block_start, carry)

  return jax.lax.while_loop(lambda state: state[0] < end, step, (start, carry))[1]


def _block(x: Array, start: Array, end: Array, size: int) -> tuple[Array, Array]:
  """Returns `size` rows of x, and bool [size, 1]: which of them are rows from start to end.

  The last block is moved up so that it ends with x.
  """
  first = jnp.minimum(start, x.shape[0] - size)
  row = first + jnp.arange(size, dtype=jnp.int32)
  own = (row >= start) & (row < end)
  return jax.lax.dynamic_slice_in_dim(x, first, size), own[:, None]


def _put(y: Array, block: Array, start: Array) -> Array:
  """Writes back what `_block` returned for this start."""
  first = jnp.minimum(start, y.shape[0] - block.shape[0])
  return jax.lax.dynamic_update_slice_in_dim(y, block, first, 0)
