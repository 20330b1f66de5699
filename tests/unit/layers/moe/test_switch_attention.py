# SPDX-License-Identifier: Apache-2.0
"""Self-attention with experts for its projections, against a loop over tokens and heads."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from switch_t5.layers.moe.experts import AttentionExperts
from switch_t5.layers.moe.router import TopKRouter
from switch_t5.layers.moe.switch_attention import SwitchAttention
from switch_t5.layers.moe.switch_layer import SwitchLayer
from switch_t5.sharding.mesh import MeshShape, make_mesh

WIDTH, HEADS, D_KV, EXPERTS, BATCH, LENGTH = 16, 4, 4, 4, 8, 5


def make_attention() -> SwitchAttention:
  rngs = nnx.Rngs(params=1)
  projections = SwitchLayer(
    TopKRouter(WIDTH, EXPERTS, scale=4.0, rngs=rngs),
    AttentionExperts(EXPERTS, WIDTH, HEADS, D_KV, scale=4.0, rngs=rngs),
    sequences_per_group=1,
    min_expert_capacity=1,
    dtype=jnp.float32,
  )
  return SwitchAttention(
    WIDTH,
    HEADS,
    D_KV,
    projections=projections,
    dropout_rate=0.0,
    scale=1.0,
    dtype=jnp.float32,
    rngs=rngs,
  )


def naive(attention, x, token_mask, bias, capacity):
  """Token by token: its expert's query and key, the key as value, scaled by the gate; then heads."""
  experts = attention.projections.expert
  w_query, w_key, w_out, w_router = (
    np.asarray(w, np.float64)
    for w in (
      experts.query.kernel[...],
      experts.key_value.kernel[...],
      attention.out.kernel[...],
      attention.projections.router.kernel,
    )
  )
  y = np.zeros(x.shape)
  for b in range(len(x)):
    query, key = np.zeros((2, LENGTH, HEADS, D_KV))
    load = np.zeros(EXPERTS, int)
    for n in np.flatnonzero(token_mask[b]):
      probs = np.exp(x[b, n] @ w_router)
      probs /= probs.sum()
      e = probs.argmax()
      if load[e] < capacity:
        query[n] = probs[e] * (x[b, n] @ w_query[e]).reshape(HEADS, D_KV)
        key[n] = probs[e] * (x[b, n] @ w_key[e]).reshape(HEADS, D_KV)
      load[e] += 1
    seen = np.flatnonzero(token_mask[b])
    for n in seen:
      for h in range(HEADS):
        logits = key[seen, h] @ query[n, h] + bias[h, n, seen]
        weights = np.exp(logits - logits.max())
        attended = weights / weights.sum() @ key[seen, h]
        y[b, n] += attended @ w_out[h * D_KV : (h + 1) * D_KV]
  return y


@pytest.mark.parametrize("mesh", [(1, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize(("factor", "capacity"), [(1.0, 2), (None, LENGTH)])
def test_each_tokens_expert_makes_its_query_and_its_key_that_is_its_value(mesh, factor, capacity):
  attention, rng = make_attention(), np.random.default_rng(0)
  x = rng.normal(size=(BATCH, LENGTH, WIDTH)).astype(np.float32)
  bias = rng.normal(size=(HEADS, LENGTH, LENGTH)).astype(np.float32)
  token_mask = np.arange(LENGTH)[None] < rng.integers(1, LENGTH + 1, (BATCH, 1))
  mask = (token_mask[:, :, None] & token_mask[:, None, :])[:, None]
  run = jax.jit(
    lambda x: attention(
      x,
      jnp.asarray(mask),
      jnp.asarray(bias)[None],
      token_mask=jnp.asarray(token_mask),
      token_ids=None,
      capacity_factor=factor,
      key=None,
    )
  )
  with jax.set_mesh(make_mesh(MeshShape(*mesh))):
    y, report = jax.device_get(run(x.reshape(-1, WIDTH)))
  real = token_mask.ravel()
  want = naive(attention, x, token_mask, bias, capacity).reshape(-1, WIDTH)
  np.testing.assert_allclose(y[real], want[real], rtol=1e-4, atol=1e-5)
  assert (report.num_dropped > 0) == (factor is not None)
  assert report.num_tokens == real.sum()
