# SPDX-License-Identifier: Apache-2.0
"""The grouped matmul against a loop over experts in float64, and whose bits depend on what."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from switch_t5.layers.moe.grouped_matmul import grouped_matmul
from switch_t5.sharding.mesh import DATA, EXPERT, MODEL, MeshShape, make_mesh

# R, and the sizes of the groups.
CASES = {
  "even": (48, [12, 12, 12, 12]),
  "uneven": (48, [1, 30, 5, 12]),
  "empty experts": (48, [0, 40, 0, 8]),
  "all to one": (48, [0, 0, 48, 0]),
  "rows of no expert": (48, [3, 0, 20, 4]),
  "no row at all": (48, [0, 0, 0, 0]),
  "fewer rows than experts": (5, [0, 1, 0, 2, 0, 0, 1, 0, 0, 1]),
  "one row": (1, [0, 0, 1, 0]),
  "one row of one expert": (1, [1]),
  "one expert": (20, [17]),
  "several blocks": (700, [333, 367]),
  "several blocks for one": (700, [0, 690]),
  "beyond the batch": (300, [0, 280, 11]),
}
TOLERANCE = {jnp.float32: 1e-5, jnp.bfloat16: 1.5e-2}


def inputs(rows, num_experts, width=24, hidden=20, dtype=jnp.float32, seed=0):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(rows, width))
  kernel = rng.normal(size=(num_experts, width, hidden)) / width**0.5
  return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


def naive(x, kernel, sizes, y_bar):
  """The product and its gradients, expert by expert."""
  x, kernel, y_bar = (np.asarray(a, np.float64) for a in (x, kernel, y_bar))
  y, x_bar, kernel_bar = np.zeros(y_bar.shape), np.zeros_like(x), np.zeros_like(kernel)
  ends = np.cumsum(sizes)
  for e, (size, end) in enumerate(zip(sizes, ends, strict=True)):
    of_expert = slice(end - size, end)
    y[of_expert] = x[of_expert] @ kernel[e]
    x_bar[of_expert] = y_bar[of_expert] @ kernel[e].T
    kernel_bar[e] = x[of_expert].T @ y_bar[of_expert]
  return y, x_bar, kernel_bar


def product_and_gradients(x, kernel, sizes, y_bar):
  y, transpose = jax.vjp(lambda x, kernel: grouped_matmul(x, kernel, sizes), x, kernel)
  return y, *transpose(y_bar)


def assert_close(results, expected, dtype):
  for result, wanted in zip(results, expected, strict=True):
    assert result.dtype == dtype
    scale = max(np.abs(wanted).max(), 1.0)
    np.testing.assert_allclose(
      np.asarray(result, np.float64), wanted, atol=TOLERANCE[dtype] * scale
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_equals_a_loop_over_experts_gradients_too(case, dtype):
  rows, sizes = CASES[case]
  x, kernel = inputs(rows, len(sizes), dtype=dtype)
  y_bar = jnp.asarray(np.random.default_rng(1).normal(size=(rows, kernel.shape[2])), dtype)
  results = jax.jit(product_and_gradients)(x, kernel, jnp.asarray(sizes, jnp.int32), y_bar)
  assert_close(results, naive(x, kernel, sizes, y_bar), dtype)


def test_rows_of_no_expert_are_zeros_whatever_they_hold():
  x, kernel = inputs(48, 4)
  x = x.at[30:].set(jnp.nan)
  sizes = jnp.asarray([9, 0, 21, 0], jnp.int32)
  y, x_bar, kernel_bar = product_and_gradients(x, kernel, sizes, jnp.ones((48, 20)))
  assert (np.asarray(y[30:]) == 0).all() and (np.asarray(x_bar[30:]) == 0).all()
  assert np.isfinite(np.asarray(y)).all() and np.isfinite(np.asarray(kernel_bar)).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("rows", "width"), [(8, 96), (64, 24), (96, 64), (640, 17), (640, 300)])
def test_bits_of_a_row_depend_on_no_other_row_nor_on_its_place(rows, width, dtype):
  num_experts = 4
  rng = np.random.default_rng(2)
  x, kernel = inputs(rows, num_experts, width=width, dtype=dtype)
  run = jax.jit(grouped_matmul)
  expert = rng.integers(0, num_experts, rows)
  results = []
  for trial in range(4):
    # Other rows change or leave, experts' loads change, and with both every row's place.
    there = rng.permutation(rows)[: rows if trial == 0 else rng.integers(1, rows + 1)]
    there = there[np.argsort(expert[there], kind="stable")]
    others = jnp.asarray(rng.normal(size=(rows, width)), dtype)
    placed = others.at[: len(there)].set(x[there])
    sizes = np.bincount(expert[there], minlength=num_experts).astype(np.int32)
    y = np.asarray(run(placed, kernel, sizes), np.float32)
    results.append({row: y[n] for n, row in enumerate(there)})
  for result in results[1:]:
    for row, y in result.items():
      np.testing.assert_array_equal(y, results[0][row])
  row = min(results[-1])
  alone = jnp.zeros_like(x).at[0].set(x[row])
  sizes = np.eye(num_experts, dtype=np.int32)[expert[row]]
  np.testing.assert_array_equal(np.asarray(run(alone, kernel, sizes)[0]), results[0][row])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_bits_of_a_row_do_not_depend_on_how_many_there_are_room_for_in_decoding(dtype):
  num_experts = 32
  x, kernel = inputs(200, num_experts, width=96, dtype=dtype)
  expert = np.sort(np.random.default_rng(3).integers(0, num_experts, 200))
  sizes = np.bincount(expert, minlength=num_experts).astype(np.int32)
  many = np.asarray(jax.jit(grouped_matmul)(x, kernel, sizes), np.float32)
  for row in (0, 77, 199):
    one = jnp.asarray(np.eye(num_experts, dtype=np.int32)[expert[row]])
    alone = jax.jit(grouped_matmul)(x[row : row + 1], kernel, one)
    np.testing.assert_array_equal(np.asarray(alone, np.float32)[0], many[row])


def test_works_inside_scan_and_checkpoint():
  rows, sizes = CASES["rows of no expert"]
  x, _ = inputs(rows, len(sizes))
  kernels = jnp.stack([inputs(rows, len(sizes), hidden=24, seed=s)[1] for s in range(3)])
  sizes = jnp.asarray(sizes, jnp.int32)

  def loss(kernels, x, scanned):
    def layer(x, kernel):
      return x + jax.nn.relu(grouped_matmul(x, kernel, sizes)), None

    if scanned:
      x, _ = jax.lax.scan(jax.checkpoint(layer), x, kernels)
    else:
      for kernel in kernels:
        x, _ = layer(x, kernel)
    return (x**2).sum()

  step = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)
  for scanned, plain in zip(step(kernels, x, True), step(kernels, x, False), strict=True):
    np.testing.assert_allclose(scanned, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 8, 1)])
def test_works_on_each_device_with_its_own_group_sizes(shape):
  rows, own = 40, 3
  mesh = make_mesh(MeshShape(*shape))
  rng = np.random.default_rng(4)
  devices = mesh.size
  everything = (DATA, EXPERT, MODEL)
  x, kernel = inputs(rows * devices, own * devices)
  sizes = rng.multinomial(30, [0.1, 0.0, 0.9], size=devices).astype(np.int32)
  y_bar = jnp.asarray(rng.normal(size=(rows * devices, kernel.shape[2])), jnp.float32)
  run = jax.shard_map(
    product_and_gradients, mesh=mesh, in_specs=(P(everything),) * 4, out_specs=(P(everything),) * 3
  )
  results = jax.jit(run)(x, kernel, sizes.ravel(), y_bar)
  for device in range(devices):
    rows_here = slice(rows * device, rows * (device + 1))
    experts_here = slice(own * device, own * (device + 1))
    results_here = [results[0][rows_here], results[1][rows_here], results[2][experts_here]]
    expected = naive(x[rows_here], kernel[experts_here], sizes[device], y_bar[rows_here])
    assert_close(results_here, expected, jnp.float32)


def test_kernels_of_experts_without_rows_are_not_read():
  x, kernel = inputs(8, 256)
  sizes = np.zeros(256, np.int32)
  sizes[[3, 90]] = 5, 3
  unread = jnp.where((sizes == 0)[:, None, None], jnp.nan, kernel)
  y, x_bar, _ = product_and_gradients(x, unread, jnp.asarray(sizes), jnp.ones((8, 20)))
  assert np.isfinite(np.asarray(y)).all() and np.isfinite(np.asarray(x_bar)).all()
