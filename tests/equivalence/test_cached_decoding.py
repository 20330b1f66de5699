# SPDX-License-Identifier: Apache-2.0
"""Decoding with a cache gives the logits of teacher forcing, for every kind of layer and router."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from switch_t5 import batch as features
from switch_t5.model.cached_decoder import CachedDecoder
from switch_t5.model.definition import define_model
from switch_t5.model.router_config import RouterConfig
from switch_t5.sharding.mesh import MeshShape, make_mesh

LENGTHS = (12, 9)
MODELS = {
  "Switch": {},
  "top-2, shared experts, T5 1.1": {
    "decoder_router": RouterConfig(num_selected_experts=2),
    "num_shared_experts": 1,
    "expert_d_ff": 16,
    "mlp_activations": ("gelu", "linear"),
    "logits_via_embedding": False,
  },
  "hash": {"decoder_router": RouterConfig(kind="hash"), "num_decoder_layers": 2},
  "random": {"decoder_router": RouterConfig(kind="random")},
  "Switch attention": {"sparse_sublayers": "both", "num_decoder_layers": 3},
  "dense": {
    "num_experts": 0,
    "num_encoder_sparse_layers": 0,
    "num_decoder_sparse_layers": 0,
    "num_decoder_layers": 2,
    "sequences_per_group": None,
  },
}


def cached_logits(definition, params, batch, hypotheses=1, ancestors=None):
  """Runs the decoder's inputs through the cache, a position at a time: [B, K, T, V].

  Hypothesis k reads the inputs of row (b + k) % B, on the encoding of row b.
  """
  inputs = batch[features.DECODER_INPUT_TOKENS]
  rows, length = inputs.shape
  inputs = jnp.stack([jnp.roll(inputs, -k, axis=0) for k in range(hypotheses)], axis=1)
  model = definition.build(params)
  segment_ids = batch[features.ENCODER_SEGMENT_IDS]
  encoded, _ = model.encode(batch[features.ENCODER_INPUT_TOKENS], segment_ids, capacity_factor=None)
  decoder = CachedDecoder(model, encoded, segment_ids, max_length=length, num_hypotheses=hypotheses)
  own = jnp.arange(hypotheses, dtype=jnp.int32)[None, :, None]
  own = jnp.broadcast_to(own, (rows, hypotheses, length))
  running = jnp.ones((rows, hypotheses), bool)

  def step(cache, time):
    tokens = jnp.take(inputs, time, axis=2)
    since = own if ancestors is None else jnp.where(jnp.arange(length) < time, ancestors, own)
    logits, cache = decoder(tokens, time, since, running, cache)
    return cache, logits

  _, logits = jax.lax.scan(step, decoder.empty_cache, jnp.arange(length, dtype=jnp.int32))
  return jnp.moveaxis(logits, 0, 2)


def forced_logits(definition, params, batch):
  """Teacher forcing of the same inputs, [B, T, V]; padding is decoded as anything else."""
  ones = jnp.ones_like(batch[features.DECODER_SEGMENT_IDS])
  batch = batch | {features.DECODER_SEGMENT_IDS: ones}
  rows, length = ones.shape
  logits = definition.build(params)(batch, capacity_factor=None).logits
  return logits.reshape(rows, length, -1)


@pytest.mark.parametrize("name", MODELS)
def test_cached_logits_are_those_of_teacher_forcing(tiny_config, random_params, tiny_batch, name):
  config = dataclasses.replace(tiny_config, **MODELS[name])
  definition = define_model(config)
  params, batch = random_params(definition), tiny_batch(LENGTHS)
  with jax.set_mesh(make_mesh(MeshShape())):
    want = jax.jit(lambda p, b: forced_logits(definition, p, b))(params, batch)
    got = jax.jit(lambda p, b: cached_logits(definition, p, b))(params, batch)
  np.testing.assert_allclose(got[:, 0], want, rtol=1e-4, atol=2e-5 * np.abs(want).max())


def test_hypotheses_share_a_cache_and_can_go_on_from_each_other(
  tiny_config, random_params, tiny_batch
):
  definition = define_model(tiny_config)
  params, batch = random_params(definition), tiny_batch(LENGTHS)
  swapped = np.broadcast_to(np.array([1, 0], np.int32)[None, :, None], (16, 2, LENGTHS[1]))
  last = LENGTHS[1] - 1
  inputs = batch[features.DECODER_INPUT_TOKENS]
  with jax.set_mesh(make_mesh(MeshShape())):
    got = jax.jit(lambda p, b: cached_logits(definition, p, b, 2, swapped))(params, batch)
    # The last position of a hypothesis, on the other one's past. The past itself was decoded on
    # swapped pasts too; the first layer's entries do not depend on that, and there is one layer.
    for k in range(2):
      past, now = np.roll(inputs, k - 1, axis=0), np.roll(inputs, -k, axis=0)
      mixed = np.concatenate([past[:, :last], now[:, last:]], axis=1)
      forced = jax.jit(lambda p, b: forced_logits(definition, p, b))
      want = forced(params, batch | {features.DECODER_INPUT_TOKENS: mixed})
      np.testing.assert_allclose(
        got[:, k, last], want[:, last], rtol=1e-4, atol=2e-5 * np.abs(want).max()
      )


@pytest.mark.parametrize("mesh_shape", [(2, 2, 2), (1, 8, 1)])
def test_cached_logits_do_not_depend_on_the_mesh(
  tiny_config, random_params, tiny_batch, mesh_shape
):
  definition = define_model(tiny_config)
  params, batch = random_params(definition), tiny_batch(LENGTHS)
  logits = {}
  for shape in ((1, 1, 1), mesh_shape):
    with jax.set_mesh(make_mesh(MeshShape(*shape))):
      run = jax.jit(lambda p, b: cached_logits(definition, p, b, 2))
      logits[shape] = jax.device_get(run(params, batch))
  want = logits[1, 1, 1]
  np.testing.assert_allclose(logits[mesh_shape], want, rtol=1e-4, atol=2e-5 * np.abs(want).max())
