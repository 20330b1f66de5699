# SPDX-License-Identifier: Apache-2.0
"""The ragged exchange against loops over devices, on CPU, and what TPUs are given to compile."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from switch_t5.layers.moe.exchange import ragged_exchange
from switch_t5.layers.moe.grouped_matmul import grouped_matmul
from switch_t5.sharding.mesh import DATA, EXPERT, MODEL, MeshShape, make_mesh

WIDTH = 6
ROWS_SPEC = P((DATA, EXPERT), MODEL)
COUNTS_SPEC = P(DATA)
MESHES = [(2, 2, 2), (1, 8, 1), (2, 4, 1), (1, 2, 4)]


def random_counts(rng, data, expert, rows, out_rows):
  """Counts [data, expert, expert] with room left over, some of them 0."""
  most = min(rows, out_rows) // expert
  counts = rng.integers(0, most + 1, (data, expert, expert))
  return np.where(rng.random(counts.shape) < 0.2, 0, counts).astype(np.int32)


def naive_exchange(x, counts, out_rows):
  """The exchange of x [data, expert, R, w], pair by pair of devices."""
  data, expert, _, width = x.shape
  out = np.zeros((data, expert, out_rows, width), x.dtype)
  for d in range(data):
    for j in range(expert):
      received = [x[d, i][counts[d, i, :j].sum() :][: counts[d, i, j]] for i in range(expert)]
      received = np.concatenate(received)
      out[d, j, : len(received)] = received
  return out


def exchange(mesh, out_rows):
  """The exchange on all devices: x [data * expert * R, w], counts [data, expert, expert]."""

  def on_device(x, counts):
    return ragged_exchange(x, counts[0], EXPERT, out_rows)

  specs = {"in_specs": (ROWS_SPEC, COUNTS_SPEC), "out_specs": ROWS_SPEC}
  return jax.shard_map(on_device, mesh=mesh, **specs)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", MESHES)
def test_each_device_gets_its_rows_in_the_order_of_their_sources(shape, dtype):
  (data, expert, model), rows, out_rows = shape, 24, 40
  rng = np.random.default_rng(0)
  x = np.asarray(rng.normal(size=(data, expert, rows, WIDTH * model)), dtype)
  counts = random_counts(rng, data, expert, rows, out_rows)
  run = jax.jit(exchange(make_mesh(MeshShape(*shape)), out_rows))
  out = run(x.reshape(-1, WIDTH * model), counts).reshape(data, expert, out_rows, -1)
  np.testing.assert_array_equal(np.asarray(out), naive_exchange(x, counts, out_rows))


@pytest.mark.parametrize("shape", MESHES)
def test_its_gradient_is_the_way_back(shape):
  (data, expert, model), rows, out_rows = shape, 24, 40
  rng = np.random.default_rng(1)
  x = rng.normal(size=(data * expert * rows, WIDTH * model)).astype(np.float32)
  y_bar = rng.normal(size=(data, expert, out_rows, WIDTH * model)).astype(np.float32)
  counts = random_counts(rng, data, expert, rows, out_rows)
  run = exchange(make_mesh(MeshShape(*shape)), out_rows)
  weights = y_bar.reshape(-1, WIDTH * model)
  x_bar = jax.jit(jax.grad(lambda x: (run(x, counts) * weights).sum()))(x)
  expected = naive_exchange(y_bar, counts.swapaxes(1, 2), rows)
  np.testing.assert_array_equal(np.asarray(x_bar).reshape(expected.shape), expected)


def test_a_device_that_is_sent_all_rows_and_others_none():
  rows, expert = 5, 8
  x = np.arange(expert * rows, dtype=np.float32)[:, None]
  counts = np.zeros((1, expert, expert), np.int32)
  counts[0, :, 3] = rows
  out = jax.jit(exchange(make_mesh(MeshShape(1, expert, 1)), expert * rows))(x, counts)
  out = np.asarray(out).reshape(expert, expert * rows)
  np.testing.assert_array_equal(out[3], x[:, 0])
  assert (np.delete(out, 3, axis=0) == 0).all()


@pytest.mark.parametrize("out_rows", [2, 4, 7])
def test_one_device_along_the_axis_keeps_its_rows_and_sends_nothing(out_rows):
  x = np.arange(8.0, dtype=np.float32).reshape(4, 2)
  counts = np.full((1, 1, 1), min(4, out_rows), np.int32)
  run = exchange(make_mesh(MeshShape()), out_rows)
  kept = min(4, out_rows)
  out = np.asarray(jax.jit(run)(x, counts))
  np.testing.assert_array_equal(out[:kept], x[:kept])
  assert out.shape == (out_rows, 2) and (out[kept:] == 0).all()
  step = jax.jit(jax.grad(lambda x: (run(x, counts) ** 2).sum()))
  expected = np.where(np.arange(4)[:, None] < kept, 2 * x, 0)
  np.testing.assert_array_equal(np.asarray(step(x)), expected)
  program = step.lower(x).as_text()
  assert not any(name in program for name in ("ragged", "all_gather", "all_to_all"))


class TestExpertsAcrossDevices:
  """Rows sent to their experts, two matmuls, and back, as a dropless layer does it."""

  rows, hidden = 24, 8

  def layer(self, shape):
    """Maps x, counts and kernels [e, in, out], one expert a device, to the loss."""

    def on_device(x, counts, wi, wo):
      counts = counts[0]
      wi, wo = (jax.lax.pcast(w, axis_name=DATA, to="varying") for w in (wi, wo))
      x = ragged_exchange(x, counts, EXPERT, 2 * self.rows)
      x = jax.lax.all_gather(x, MODEL, axis=1, tiled=True)
      sizes = counts[:, jax.lax.axis_index(EXPERT)].sum(keepdims=True, dtype=jnp.int32)
      y = grouped_matmul(jax.nn.relu(grouped_matmul(x, wi, sizes)), wo, sizes)
      y = jax.lax.psum_scatter(y, MODEL, scatter_dimension=1, tiled=True)
      return ragged_exchange(y, counts.T, EXPERT, self.rows)

    kernels = (P(EXPERT, None, MODEL), P(EXPERT, MODEL, None))
    on_devices = jax.shard_map(
      on_device,
      mesh=make_mesh(MeshShape(*shape)),
      in_specs=(ROWS_SPEC, COUNTS_SPEC, *kernels),
      out_specs=ROWS_SPEC,
    )
    return lambda x, counts, wi, wo: (on_devices(x, counts, wi, wo) ** 2).sum()

  def inputs(self, shape):
    data, expert, model = shape
    rng = np.random.default_rng(2)
    width = 2 * model
    x = rng.normal(size=(data * expert * self.rows, width)).astype(np.float32)
    counts = random_counts(rng, data, expert, self.rows, 2 * self.rows)
    wi = rng.normal(size=(expert, width, self.hidden)).astype(np.float32)
    wo = rng.normal(size=(expert, self.hidden, width)).astype(np.float32)
    return x, counts, wi, wo

  @pytest.mark.parametrize("shape", [(2, 2, 2), (1, 8, 1)])
  def test_equals_each_row_at_its_expert_gradients_too(self, shape):
    data, expert, _ = shape
    x, counts, wi, wo = self.inputs(shape)
    # Each row's expert, and `expert` for rows that are not sent: they come back as zeros.
    expert_of_row = np.full((data, expert, self.rows), expert)
    for d in range(data):
      for i in range(expert):
        expert_of_row[d, i, : counts[d, i].sum()] = np.repeat(np.arange(expert), counts[d, i])
    one_hot = np.eye(expert + 1, dtype=np.float32)[expert_of_row.ravel(), :expert]

    def dense(x, wi, wo):
      y = jax.nn.relu(jnp.einsum("rd,edf->erf", x, wi))
      return (jnp.einsum("erf,efd,re->rd", y, wo, one_hot) ** 2).sum()

    layer = self.layer(shape)
    step = jax.jit(jax.value_and_grad(layer, argnums=(0, 2, 3)))
    loss, gradients = step(x, counts, wi, wo)
    expected_loss, expected = jax.value_and_grad(dense, argnums=(0, 1, 2))(x, wi, wo)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    for gradient, wanted in zip(gradients, expected, strict=True):
      scale = np.abs(wanted).max()
      np.testing.assert_allclose(gradient, wanted, atol=1e-5 * scale)

  @pytest.mark.parametrize("shape", [(2, 2, 2), (1, 8, 1)])
  def test_lowered_for_tpu_sends_rows_only_and_multiplies_them_once(self, shape):
    step = jax.jit(jax.grad(self.layer(shape), argnums=(0, 2, 3)))
    program = step.trace(*self.inputs(shape)).lower(lowering_platforms=("tpu",)).as_text()
    assert program.count("@ragged_all_to_all(") == 4  # there and back, and their transposes
    assert program.count('"chlo.ragged_dot"(') == 6  # two matmuls, and two gradients of each
    assert "stablehlo.while" not in program
    gathered = re.findall(r"all_gather.*?tensor<(\d+)x\d+x\w+>\) -> tensor<(\d+)x", program)
    assert all(rows == rows_after for rows, rows_after in gathered)  # columns over model alone
