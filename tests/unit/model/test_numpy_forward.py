# SPDX-License-Identifier: Apache-2.0
"""The whole encoder-decoder against a NumPy one written from the papers, one sequence at a time."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from switch_t5.batch import shift_right
from switch_t5.model.config import ModelConfig
from switch_t5.model.definition import define_model
from switch_t5.sharding.mesh import MeshShape, make_mesh

CONFIG = ModelConfig(
  vocab_size=128,
  d_model=16,
  d_ff=24,
  d_kv=4,
  num_heads=3,
  num_encoder_layers=4,
  num_decoder_layers=2,
  num_experts=4,
  num_encoder_sparse_layers=2,
  num_decoder_sparse_layers=1,
  sequences_per_group=1,
  init_scale=2.0,
  activation_dtype="float32",
)
T5_1_1 = dataclasses.replace(CONFIG, mlp_activations=("gelu", "linear"), logits_via_embedding=False)
ENCODER_LENGTH, DECODER_LENGTH = 40, 24  # beyond the exact buckets of relative positions


def norm(x, scale):
  return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * scale


def softmax(x):
  x = np.exp(x - x.max(axis=-1, keepdims=True))
  return x / x.sum(axis=-1, keepdims=True)


def bucket(distance, buckets, bidirectional):
  """T5: half the buckets exact, half logarithmic to 128; keys after the query in the upper half."""
  offset = 0
  if bidirectional:
    buckets //= 2
    offset, distance = (buckets if distance > 0 else 0), -abs(distance)
  steps, exact = max(-distance, 0), buckets // 2
  if steps < exact:
    return offset + steps
  far = exact + math.log(steps / exact) / math.log(128 / exact) * (buckets - exact)
  return offset + min(int(far + 1e-6), buckets - 1)


def position_bias(table, length, bidirectional):
  """[H, length, length] of a table [H, 32]."""
  index = [
    [bucket(key - query, 32, bidirectional) for key in range(length)] for query in range(length)
  ]
  return table[:, index]


def attention(p, x, memory, bias, causal):
  """x [L, d] over memory [K, d]; bias [H, L, K] or 0."""
  split = lambda y: y.reshape(len(y), CONFIG.num_heads, CONFIG.d_kv)  # noqa: E731
  q, k, v = (
    split(source @ p[name]["kernel"])
    for name, source in (("query", x), ("key", memory), ("value", memory))
  )
  logits = np.einsum("qhd,khd->hqk", q, k) + bias
  if causal:
    logits = np.where(np.tri(len(x), dtype=bool), logits, -np.inf)
  attended = np.einsum("hqk,khd->qhd", softmax(logits), v)
  return attended.reshape(len(x), -1) @ p["out"]["kernel"]


def gelu(x):
  """Of T5 1.1: the tanh approximation."""
  return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def mlp(p, x):
  if "wi" in p:
    return np.maximum(x @ p["wi"]["kernel"], 0) @ p["wo"]["kernel"]
  return (gelu(x @ p["wi_0"]["kernel"]) * (x @ p["wi_1"]["kernel"])) @ p["wo"]["kernel"]


def feed_forward(p, x):
  if "router" not in p:
    return mlp(p, x)
  probs = softmax(x @ p["router"]["router_weights"]["w"]["kernel"])
  y = np.zeros_like(x)
  for t, expert in enumerate(probs.argmax(axis=-1)):
    own = jax.tree.map(lambda kernel, expert=expert: kernel[expert], p["expert"])
    y[t] = probs[t, expert] * mlp(own, x[t])
  return y


def layers(stack):
  """Unstacks the scanned blocks: layer i is `layers_j` of repeat r, i = r * block + j."""
  repeats = len(stack["layers_0"]["pre_mlp_layer_norm"]["scale"])
  for repeat in range(repeats):
    for j in range(len(stack)):
      yield jax.tree.map(lambda leaf, repeat=repeat: leaf[repeat], stack[f"layers_{j}"])


def numpy_logits(params, encoder_tokens, decoder_tokens):
  """[T, V] of one sequence without padding."""
  table = params["token_embedder"]["embedding"]
  x = table[encoder_tokens]
  bias = position_bias(params["encoder"]["relpos_bias"]["rel_embedding"], len(x), True)
  for p in layers(params["encoder"]["blocks"]):
    y = norm(x, p["pre_attention_layer_norm"]["scale"])
    x = x + attention(p["attention"], y, y, bias, causal=False)
    x = x + feed_forward(p["mlp"], norm(x, p["pre_mlp_layer_norm"]["scale"]))
  encoded = norm(x, params["encoder"]["encoder_norm"]["scale"])

  x = table[decoder_tokens]
  bias = position_bias(params["decoder"]["relpos_bias"]["rel_embedding"], len(x), False)
  for p in layers(params["decoder"]["blocks"]):
    y = norm(x, p["pre_self_attention_layer_norm"]["scale"])
    x = x + attention(p["self_attention"], y, y, bias, causal=True)
    y = norm(x, p["pre_cross_attention_layer_norm"]["scale"])
    x = x + attention(p["encoder_decoder_attention"], y, encoded, 0.0, causal=False)
    x = x + feed_forward(p["mlp"], norm(x, p["pre_mlp_layer_norm"]["scale"]))
  decoded = norm(x, params["decoder"]["decoder_norm"]["scale"])
  if "logits_dense" in params["decoder"]:
    return decoded @ params["decoder"]["logits_dense"]["kernel"]
  return decoded @ table.T / math.sqrt(CONFIG.d_model)


def random_params(shapes):
  """Of the size that initialisation gives, but with norms and biases that are not trivial."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    if path[-1].key == "scale":
      return rng.uniform(0.5, 1.5, leaf.shape)
    sigma = 1.0 if path[-1].key in ("embedding", "rel_embedding") else leaf.shape[-2] ** -0.5
    return rng.normal(0, sigma, leaf.shape)

  return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.smoke
@pytest.mark.parametrize("config", [CONFIG, T5_1_1], ids=["t5_1_0", "t5_1_1"])
def test_logits_are_those_of_an_independent_forward_pass(config):
  definition = define_model(config)
  params = random_params(definition.shapes)
  rng = np.random.default_rng(1)
  encoder_lengths, decoder_lengths = [40, 31], [24, 9]
  encoder_tokens = rng.integers(1, 128, (2, ENCODER_LENGTH))
  targets = rng.integers(1, 128, (2, DECODER_LENGTH))
  segment_ids = [
    (np.arange(length) < np.asarray(lengths)[:, None]).astype(np.int32)
    for length, lengths in ((ENCODER_LENGTH, encoder_lengths), (DECODER_LENGTH, decoder_lengths))
  ]
  decoder_tokens = shift_right(targets, segment_ids[1])
  batch = {
    "encoder_input_tokens": encoder_tokens,
    "encoder_segment_ids": segment_ids[0],
    "decoder_input_tokens": decoder_tokens,
    "decoder_segment_ids": segment_ids[1],
  }
  batch = {name: jnp.asarray(array, jnp.int32) for name, array in batch.items()}
  with jax.set_mesh(make_mesh(MeshShape())):
    run = jax.jit(lambda params, batch: definition.build(params)(batch, capacity_factor=4.0))
    output = run(jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params), batch)
  logits = np.asarray(output.logits).reshape(2, DECODER_LENGTH, -1)
  assert output.logits.dtype == jnp.float32
  assert output.router.num_dropped.sum() == 0
  assert output.router.expert_load.sum(axis=-1).tolist() == [71, 71, 33]  # two encoder layers first
  for row, (s, t) in enumerate(zip(encoder_lengths, decoder_lengths, strict=True)):
    expected = numpy_logits(params, encoder_tokens[row, :s], decoder_tokens[row, :t])
    np.testing.assert_allclose(logits[row, :t], expected, rtol=1e-4, atol=1e-4)
