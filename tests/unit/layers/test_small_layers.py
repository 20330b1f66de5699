# SPDX-License-Identifier: Apache-2.0
"""Norm, projections, embedding, feed-forward, dropout, initialisers."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from switch_t5.layers.attention import Attention
from switch_t5.layers.dense import Dense, matmul, stable_logits
from switch_t5.layers.dropout import dropout, dropout_tokens
from switch_t5.layers.embedding import Embedding, look_up
from switch_t5.layers.feed_forward import FeedForward
from switch_t5.layers.initializers import truncated_normal
from switch_t5.layers.moe.experts import Experts, batched_matmul
from switch_t5.layers.moe.router import TopKRouter
from switch_t5.layers.norm import LayerNorm
from switch_t5.layers.row_key import RowKey

TRUNCATED_STD = 0.8796  # of a unit normal cut at 2 sigma


def normal(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def rngs():
  return nnx.Rngs(params=0)


def test_norm_divides_by_the_root_mean_square_and_subtracts_no_mean():
  norm = LayerNorm(6, dtype=jnp.float32)
  norm.scale[...] = jnp.arange(6.0)
  x = np.asarray(normal(3, 4, 6) + 5.0)
  expected = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * np.arange(6.0)
  np.testing.assert_allclose(norm(jnp.asarray(x)), expected, rtol=1e-6)


def test_norm_of_bfloat16_is_computed_in_float32():
  x = (normal(64, 16) * 100).astype(jnp.bfloat16)
  got = LayerNorm(16, dtype=jnp.bfloat16)(x)
  assert got.dtype == jnp.bfloat16
  wide = LayerNorm(16, dtype=jnp.float32)(x)
  np.testing.assert_array_equal(got, wide.astype(jnp.bfloat16))


def test_norm_of_zeros_is_zeros():
  assert not LayerNorm(4, dtype=jnp.float32)(jnp.zeros((2, 4))).any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  ("custom", "plain", "x_shape", "kernel_shape"),
  [
    (matmul, lambda x, k: jnp.einsum("ti,io->to", x, k), (7, 3), (3, 5)),
    (batched_matmul, lambda x, k: jnp.einsum("eti,eio->eto", x, k), (2, 7, 3), (2, 3, 5)),
  ],
)
def test_custom_gradients_of_matmuls_are_the_plain_ones(
  custom, plain, x_shape, kernel_shape, dtype
):
  x, kernel = normal(*x_shape).astype(dtype), normal(*kernel_shape, seed=1).astype(dtype)
  y, vjp = jax.vjp(custom, x, kernel)
  plain_y, plain_vjp = jax.vjp(plain, x, kernel)
  y_bar = normal(*y.shape, seed=2).astype(dtype)
  tolerance = 1e-6 if dtype == jnp.float32 else 1e-2
  for got, want in zip((y, *vjp(y_bar)), (plain_y, *plain_vjp(y_bar)), strict=True):
    assert got.dtype == dtype
    np.testing.assert_allclose(
      got.astype(jnp.float32), want.astype(jnp.float32), rtol=tolerance, atol=tolerance
    )


def test_embedding_looks_up_rows_and_scales_logits_by_the_root_of_the_width():
  embedding = Embedding(11, 4, dtype=jnp.float32, rngs=rngs())
  table = np.asarray(embedding.embedding[...])
  np.testing.assert_array_equal(embedding(jnp.asarray([3, 0, 3])), table[[3, 0, 3]])
  x = normal(5, 4)
  np.testing.assert_allclose(embedding.logits(x), np.asarray(x) @ table.T / 2.0, rtol=1e-5)


def test_logits_of_bfloat16_activations_are_float32():
  embedding = Embedding(11, 4, dtype=jnp.bfloat16, rngs=rngs())
  assert embedding(jnp.asarray([1])).dtype == jnp.bfloat16
  assert embedding.logits(normal(5, 4).astype(jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_of_logits_are_the_plain_ones_in_the_type_of_the_activations(dtype):
  x, kernel = normal(7, 3).astype(dtype), normal(3, 5, seed=1).astype(dtype)
  y, vjp = jax.vjp(stable_logits, x, kernel)
  assert y.dtype == jnp.float32
  y_bar = normal(7, 5, seed=2)
  want = (np.asarray(y_bar) @ np.float32(kernel).T, np.float32(x).T @ np.asarray(y_bar))
  tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
  for got, plain in zip(vjp(y_bar), want, strict=True):
    assert got.dtype == dtype
    np.testing.assert_allclose(np.float32(got), plain, rtol=tolerance, atol=tolerance)


def test_the_gradient_of_a_frequent_token_is_summed_in_float32():
  table, ids = jnp.zeros((3, 2), jnp.bfloat16), jnp.asarray([1] * 1000 + [2])
  rows, vjp = jax.vjp(look_up, table, ids)
  table_bar, _ = vjp(jnp.ones_like(rows))
  assert table_bar.dtype == jnp.bfloat16  # where a sum of ones ends at 256
  np.testing.assert_array_equal(np.float32(table_bar), [[0, 0], [1000, 1000], [1, 1]])


def test_feed_forward_is_relu_between_two_projections():
  layer = FeedForward(4, 6, dropout_rate=0.5, scale=1.0, dtype=jnp.float32, rngs=rngs())
  x = normal(8, 4)
  hidden = np.maximum(x @ layer.wi.kernel[...], 0)
  np.testing.assert_allclose(layer(x, batch_size=2), hidden @ layer.wo.kernel[...], rtol=1e-5)


def test_feed_forward_drops_hidden_channels_for_all_positions_alike():
  layer = FeedForward(4, 6, dropout_rate=0.5, scale=1.0, dtype=jnp.float32, rngs=rngs())
  x = jnp.tile(normal(2, 1, 4), (1, 3, 1)).reshape(6, 4)
  y = layer(x, batch_size=2, key=RowKey(jax.random.key(0))).reshape(2, 3, 4)
  np.testing.assert_allclose(y, np.broadcast_to(y[:, :1], y.shape), rtol=1e-6)
  assert np.abs(y.reshape(6, 4) - layer(x, batch_size=2)).max() > 1e-3


def test_dropout_keeps_its_share_and_scales_it():
  x = jnp.full((300, 400), 2.0)
  dropped = np.asarray(dropout(x, 0.2, RowKey(jax.random.key(0)), x.shape))
  kept = dropped != 0
  np.testing.assert_allclose(dropped[kept], 2.5)
  assert kept.mean() == pytest.approx(0.8, abs=0.005)


def test_dropout_of_tokens_shares_a_mask_between_positions_of_a_sequence():
  dropped = dropout_tokens(jnp.ones((3 * 5, 64)), 0.5, RowKey(jax.random.key(0)), batch_size=3)
  masks = np.asarray(dropped).reshape(3, 5, 64)
  np.testing.assert_array_equal(masks, np.broadcast_to(masks[:, :1], masks.shape))
  assert len({mask.tobytes() for mask in masks[:, 0]}) == 3


@pytest.mark.parametrize(("rate", "key"), [(0.5, None), (0.0, RowKey(jax.random.key(0)))])
def test_nothing_is_dropped_without_key_or_rate(rate, key):
  x = normal(4, 6)
  assert dropout(x, rate, key, x.shape) is x
  assert dropout_tokens(x, rate, key, 2) is x


def assert_truncated_normal(kernel, sigma):
  """Sigma is literal: what truncation takes away is not put back."""
  kernel = np.asarray(kernel)
  assert np.abs(kernel).max() <= 2 * sigma * (1 + 1e-6)
  assert kernel.std() == pytest.approx(TRUNCATED_STD * sigma, rel=4 / math.sqrt(kernel.size))
  assert kernel.mean() == pytest.approx(0, abs=4 * sigma / math.sqrt(kernel.size))


@pytest.mark.smoke
@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_sigma_is_the_root_of_scale_over_fan_in_taken_literally(scale):
  kernel = truncated_normal(jax.random.key(0), (256, 512), scale, fan_in=256)
  assert_truncated_normal(kernel, math.sqrt(scale / 256))


def test_every_kernel_has_the_sigma_of_the_paper():
  width, hidden, heads, head_size, scale = 64, 128, 2, 16, 0.1
  dense = Dense(width, hidden, axes=("embed", "mlp"), scale=scale, dtype=jnp.float32, rngs=rngs())
  assert_truncated_normal(dense.kernel[...], math.sqrt(scale / width))
  attention = Attention(
    width, heads, head_size, dropout_rate=0.0, scale=scale, dtype=jnp.float32, rngs=rngs()
  )
  assert_truncated_normal(attention.query.kernel[...], math.sqrt(scale / width / head_size))
  for projection in (attention.key, attention.value):
    assert_truncated_normal(projection.kernel[...], math.sqrt(scale / width))
  assert_truncated_normal(attention.out.kernel[...], math.sqrt(scale / (heads * head_size)))
  experts = Experts(8, width, hidden, scale=scale, rngs=rngs())  # fan-in is one expert's own
  assert_truncated_normal(experts.wi.kernel[...], math.sqrt(scale / width))
  assert_truncated_normal(experts.wo.kernel[...], math.sqrt(scale / hidden))
  router = TopKRouter(width, 32, scale=scale, rngs=rngs())
  assert_truncated_normal(router.kernel, math.sqrt(scale / width))
  embedding = np.asarray(Embedding(512, width, dtype=jnp.float32, rngs=rngs()).embedding[...])
  assert embedding.std() == pytest.approx(1.0, rel=0.01)


def test_experts_are_drawn_apart():
  wi = np.asarray(Experts(8, 4, 6, scale=1.0, rngs=rngs()).wi.kernel[...])
  assert len({expert.tobytes() for expert in wi}) == 8
