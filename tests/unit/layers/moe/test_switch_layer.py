# SPDX-License-Identifier: Apache-2.0
"""The Switch layer against a naive one that loops over groups and tokens, gradients included."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from switch_t5.layers.moe.capacity import expert_capacity
from switch_t5.layers.moe.experts import Experts, expert_dropout
from switch_t5.layers.moe.router import TopKRouter
from switch_t5.layers.moe.router_statistics import RouterReport
from switch_t5.layers.moe.switch_layer import SwitchLayer
from switch_t5.layers.row_key import RowKey
from switch_t5.sharding.mesh import MeshShape, make_mesh

WIDTH, HIDDEN, LENGTH = 16, 8, 6
ONE_DEVICE = (1, 1, 1)


class Naive(NamedTuple):
  """What the naive layer returns; the gradients are those of <y, y_bar> plus both router losses."""

  y: np.ndarray
  report: RouterReport
  x_bar: np.ndarray
  kernels_bar: tuple[np.ndarray, np.ndarray, np.ndarray]


def naive_switch_layer(x, mask, kernels, capacity, y_bar) -> Naive:
  """The layer and its gradients as the paper tells them, token by token, in float64.

  Args:
    x, y_bar: [G, N, d].
    mask: [G, N].
    kernels: of router [d, E] and experts [E, d, f], [E, f, d].
    capacity: C.
  """
  x, y_bar, w, wi, wo = (np.asarray(a, np.float64) for a in (x, y_bar, *kernels))
  num_experts = w.shape[1]
  y, x_bar = np.zeros_like(x), np.zeros_like(x)
  w_bar, wi_bar, wo_bar = np.zeros_like(w), np.zeros_like(wi), np.zeros_like(wo)
  load = np.zeros((len(x), num_experts))
  balance, z_loss, dropped, entropy, confidence = np.zeros((5, len(x)))
  for g in range(len(x)):
    real = np.flatnonzero(mask[g])
    exponentials = np.exp(x[g] @ w)
    probs = exponentials / exponentials.sum(axis=-1, keepdims=True)
    log_z = np.log(exponentials.sum(axis=-1))
    fraction = np.bincount(probs[real].argmax(axis=-1), minlength=num_experts) / len(real)
    balance[g] = num_experts * (fraction * probs[real].mean(axis=0)).sum()
    z_loss[g] = (log_z[real] ** 2).mean()
    entropy[g] = -(probs[real] * np.log(probs[real])).sum()
    confidence[g] = probs[real].max(axis=-1).sum()
    for n in real:
      p, token = probs[n], x[g, n]
      e = p.argmax()
      p_bar = num_experts * fraction / len(real) / len(x)
      if load[g, e] < capacity:
        hidden = np.maximum(token @ wi[e], 0)
        output = hidden @ wo[e]
        y[g, n] = p[e] * output
        p_bar[e] += output @ y_bar[g, n]
        output_bar = p[e] * y_bar[g, n]
        hidden_bar = (wo[e] @ output_bar) * (hidden > 0)
        wo_bar[e] += np.outer(hidden, output_bar)
        wi_bar[e] += np.outer(token, hidden_bar)
        x_bar[g, n] += wi[e] @ hidden_bar
      else:
        dropped[g] += 1
      load[g, e] += 1
      logits_bar = p * (p_bar - p @ p_bar) + 2 * log_z[n] * p / len(real) / len(x)
      x_bar[g, n] += w @ logits_bar
      w_bar += np.outer(token, logits_bar)
  report = RouterReport(
    balance.mean(),
    z_loss.mean(),
    load.sum(axis=0),
    dropped.sum(),
    np.asarray(mask).sum(),
    entropy.sum(),
    confidence.sum(),
  )
  return Naive(y, report, x_bar, (w_bar, wi_bar, wo_bar))


def make_layer(
  num_experts=4,
  *,
  n=2,
  minimum=1,
  dropout=0.0,
  jitter=0.0,
  dtype=jnp.float32,
  activations=("relu",),
):
  scale = 4.0  # decided routers, so that rounding does not choose
  rngs = nnx.Rngs(params=1)
  return SwitchLayer(
    TopKRouter(WIDTH, num_experts, jitter_noise=jitter, scale=scale, rngs=rngs),
    Experts(
      num_experts,
      WIDTH,
      HIDDEN,
      activations=activations,
      dropout_rate=dropout,
      scale=scale,
      rngs=rngs,
    ),
    sequences_per_group=n,
    min_expert_capacity=minimum,
    dtype=dtype,
  )


def normal(*shape, seed):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def make_inputs(batch_size=4, lengths=None, seed=0):
  x = normal(batch_size * LENGTH, WIDTH, seed=seed)
  lengths = np.full(batch_size, LENGTH) if lengths is None else np.asarray(lengths)
  return x, jnp.asarray(np.arange(LENGTH)[None] < lengths[:, None])


def apply(layer, x, mask, *, factor=2.0, key=None, mesh=ONE_DEVICE):
  """Runs the layer compiled, on a mesh."""
  graph, params = nnx.split(layer)
  with jax.set_mesh(make_mesh(MeshShape(*mesh))):
    run = jax.jit(lambda p, x: nnx.merge(graph, p)(x, mask, capacity_factor=factor, key=key))
    return run(params, x)


CASES = {
  # name: (E, n, minimum, capacity factor, lengths of the sequences, whether some are dropped)
  "padding, nothing dropped": (4, 2, 1, 4.0, [6, 3, 1, 6], False),
  "drops at capacity 1.0": (4, 2, 1, 1.0, None, True),
  "least capacity, drops, padding": (8, 4, 4, 1.0, [6, 5, 6, 5], True),
  "capacity capped at the group": (2, 1, 4, 8.0, [6, 6, 2, 6], False),
}


@pytest.mark.smoke
@pytest.mark.parametrize("case", CASES)
def test_the_layer_and_its_gradients_are_the_naive_ones(case):
  num_experts, n, minimum, factor, lengths, drops = CASES[case]
  layer = make_layer(num_experts, n=n, minimum=minimum)
  x, mask = make_inputs(lengths=lengths)
  y_bar = normal(*x.shape, seed=7)
  graph, params = nnx.split(layer)

  def loss(params, x):
    y, report = nnx.merge(graph, params)(x, mask, capacity_factor=factor)
    total = (y * y_bar).sum() + report.load_balance_loss + report.router_z_loss
    return total, (y, report)

  with jax.set_mesh(make_mesh(MeshShape())):
    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, (y, report)), (params_bar, x_bar) = run(params, x)

  grouped = (-1, n * LENGTH, WIDTH)
  naive = naive_switch_layer(
    x.reshape(grouped),
    np.asarray(mask).reshape(grouped[:2]),
    (layer.router.kernel, layer.expert.wi.kernel[...], layer.expert.wo.kernel[...]),
    expert_capacity(factor, n * LENGTH, num_experts, minimum),
    y_bar.reshape(grouped),
  )
  assert (naive.report.num_dropped.sum() > 0) == drops
  assert_close(y, naive.y)
  for got, want in zip(*map(jax.tree.leaves, (report, naive.report)), strict=True):
    assert_close(got, want)
  assert_close(x_bar, naive.x_bar)
  bars = nnx.to_pure_dict(params_bar)
  assert_close(bars["router"]["router_weights"]["w"]["kernel"], naive.kernels_bar[0])
  assert_close(bars["expert"]["wi"]["kernel"], naive.kernels_bar[1])
  assert_close(bars["expert"]["wo"]["kernel"], naive.kernels_bar[2])


def assert_close(got, want):
  """Equal to 1e-5 of the greatest element."""
  want = np.asarray(want)
  scale = max(float(np.abs(want).max()), 1e-30)
  np.testing.assert_allclose(np.reshape(got, want.shape), want, rtol=1e-5, atol=1e-5 * scale)


def test_bfloat16_activations_leave_the_router_in_float32():
  x, mask = make_inputs()
  x = x.astype(jnp.bfloat16)
  y, report = apply(make_layer(dtype=jnp.bfloat16), x, mask)
  wide, wide_report = apply(make_layer(), x.astype(jnp.float32), mask)
  assert y.dtype == jnp.bfloat16
  for got, want in zip(*map(jax.tree.leaves, (report, wide_report)), strict=True):
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, want)  # same decisions, same losses, bit for bit
  error = np.abs(np.asarray(y, np.float32) - wide).max() / np.abs(wide).max()
  assert error < 0.02  # bfloat16 keeps 8 bits


def test_a_group_over_256_tokens_in_bfloat16_gives_each_its_own_place():
  batch_size = 64  # one group of 384 tokens, all to one expert
  layer = make_layer(1, n=batch_size, dtype=jnp.bfloat16)
  x, mask = make_inputs(batch_size)
  y, report = apply(layer, x.astype(jnp.bfloat16), mask, factor=1.0)
  assert report.num_dropped.item() == 0
  kernels = (layer.expert.wi.kernel[0], layer.expert.wo.kernel[0])
  dense = jax.nn.relu(x.astype(jnp.bfloat16).astype(jnp.float32) @ kernels[0]) @ kernels[1]
  assert np.abs(np.asarray(y, np.float32) - dense).max() / np.abs(dense).max() < 0.02


def test_padding_and_dropped_tokens_come_back_as_zeros():
  x, mask = make_inputs(lengths=[6, 0, 2, 6])
  y, report = apply(make_layer(), x, mask, factor=0.5)
  real = np.asarray(mask).ravel()
  is_zero = ~np.asarray(y).any(axis=-1)
  assert is_zero[~real].all()
  assert is_zero[real].sum() == int(report.num_dropped.sum()) > 0


def test_added_padding_changes_no_real_token():
  x, mask = make_inputs(lengths=[6, 4, 6, 6])
  y, report = apply(make_layer(), x, mask, factor=8.0)
  more = 5  # positions at the end of every sequence, and two sequences at the end of the batch
  padded = jnp.pad(x.reshape(4, LENGTH, WIDTH), ((0, 2), (0, more), (0, 0)), constant_values=9.0)
  padded_mask = jnp.pad(mask, ((0, 2), (0, more)))
  padded_y, padded_report = apply(make_layer(), padded.reshape(-1, WIDTH), padded_mask, factor=8.0)
  assert report.num_dropped.sum() == padded_report.num_dropped.sum() == 0
  unpadded = padded_y.reshape(6, LENGTH + more, WIDTH)[:4, :LENGTH].reshape(-1, WIDTH)
  np.testing.assert_allclose(unpadded, y, rtol=1e-5, atol=1e-6)
  # The group of nothing but padding counts as a group without losses.
  means = padded_report._replace(
    load_balance_loss=padded_report.load_balance_loss * 3 / 2,
    router_z_loss=padded_report.router_z_loss * 3 / 2,
  )
  for got, want in zip(*map(jax.tree.leaves, (means, report)), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_gated_experts_and_their_gradients_are_the_dense_ones_on_any_mesh():
  layer = make_layer(1, n=1, activations=("gelu", "linear"))
  wide = make_layer(4, n=1, activations=("gelu", "linear"))
  x, mask = make_inputs()
  kernels = (layer.expert.wi_0.kernel[0], layer.expert.wi_1.kernel[0], layer.expert.wo.kernel[0])
  gated = lambda x, w0, w1, wo: (jax.nn.gelu(x @ w0) * (x @ w1)) @ wo  # noqa: E731

  graph, params = nnx.split(layer)
  with jax.set_mesh(make_mesh(MeshShape(2, 1, 4))):
    run = lambda p, x: (nnx.merge(graph, p)(x, mask, capacity_factor=1.0)[0] ** 2).sum()  # noqa: E731
    value, (bars, x_bar) = jax.jit(jax.value_and_grad(run, argnums=(0, 1)))(params, x)
  want, (want_x, *want_kernels) = jax.value_and_grad(
    lambda x, *kernels: (gated(x, *kernels) ** 2).sum(), argnums=(0, 1, 2, 3)
  )(x, *kernels)  # one expert: the gate is 1
  assert_close(value, want)
  assert_close(x_bar, want_x)
  for name, bar in zip(("wi_0", "wi_1", "wo"), want_kernels, strict=True):
    assert_close(nnx.to_pure_dict(bars)["expert"][name]["kernel"], bar[None])

  one, _ = apply(wide, x, mask)
  for mesh in ((1, 4, 2), (2, 2, 2)):
    assert_close(apply(wide, x, mask, mesh=mesh)[0], one)


def test_jitter_and_expert_dropout_do_not_depend_on_the_mesh():
  layer = make_layer(dropout=0.4, jitter=0.1)
  x, mask = make_inputs(8)
  noisy, report = apply(layer, x, mask, factor=1.0, key=RowKey(jax.random.key(3)))
  sharded, sharded_report = apply(
    layer, x, mask, factor=1.0, key=RowKey(jax.random.key(3)), mesh=(2, 2, 2)
  )
  assert_close(sharded, noisy)
  for got, want in zip(*map(jax.tree.leaves, (sharded_report, report)), strict=True):
    assert_close(got, want)
  quiet, _ = apply(layer, x, mask, factor=1.0)
  assert np.abs(noisy - quiet).max() > 0.1
  np.testing.assert_array_equal(quiet, apply(make_layer(), x, mask, factor=1.0)[0])


def test_expert_dropout_keeps_its_share_and_scales_the_rest():
  hidden = jnp.full((4, 6 * 50, 64), 3.0)
  draw = lambda key: expert_dropout(  # noqa: E731
    hidden,
    rate=0.4,
    key=key,
    expert_ids=jnp.arange(4),
    group_ids=jnp.arange(6),
    first_column=0,
    d_ff=64,
  )
  dropped = np.asarray(draw(jax.random.key(0)))
  kept = dropped != 0
  np.testing.assert_allclose(dropped[kept], 5.0, rtol=1e-6)
  assert kept.mean() == pytest.approx(0.6, abs=0.005)
  by_expert_and_group = kept.reshape(4 * 6, -1)
  assert len({part.tobytes() for part in by_expert_and_group}) == 4 * 6  # each draws its own
  assert draw(None) is hidden


def test_expert_dropout_of_a_device_is_its_part_of_the_whole():
  hidden = jnp.ones((4, 6 * 5, 8))
  key = jax.random.key(1)
  draw = functools.partial(expert_dropout, rate=0.5, key=key, d_ff=8)
  whole = draw(hidden, expert_ids=jnp.arange(4), group_ids=jnp.arange(6), first_column=0)
  part = draw(
    jnp.ones((2, 3 * 5, 4)),
    expert_ids=jnp.arange(2, 4),
    group_ids=jnp.arange(3, 6),
    first_column=4,
  )
  np.testing.assert_array_equal(part, whole[2:, 15:, 4:])
