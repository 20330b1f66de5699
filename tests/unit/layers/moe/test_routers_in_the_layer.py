# SPDX-License-Identifier: Apache-2.0
"""Every router in the Switch layer, against experts that all see every token.

The oracle knows nothing of plans and places: it runs all experts on all tokens and adds their
outputs up by a matrix of gates [tokens, experts], zero where a token did not get a place. Who gets one
is decided by a loop over tokens.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from switch_t5.layers.moe.capacity import expert_capacity
from switch_t5.layers.moe.experts import Experts
from switch_t5.layers.moe.switch_layer import SwitchLayer
from switch_t5.model.router_config import RouterConfig
from switch_t5.sharding.mesh import MeshShape, make_mesh

WIDTH, HIDDEN, LENGTH, EXPERTS, N_SEQUENCES = 16, 8, 6, 4, 2
BATCH = 8


class Case(NamedTuple):
  """A router, its capacity factor (None for dropless), and whether some choices are dropped."""

  options: dict
  factor: float | None = 1.0
  drops: bool = True


CASES = {
  "top-1": Case({}),
  "top-1, balance over the global batch": Case({"balance_scope": "global"}),
  "top-2, raw gates": Case({"num_selected_experts": 2}),
  "top-2, renormalised": Case({"num_selected_experts": 2, "renormalize_gates": True}, 1.5),
  "top-2, second choices over a threshold": Case(
    {
      "num_selected_experts": 2,
      "renormalize_gates": True,
      "second_expert_policy": "threshold",
    }
  ),
  "top-2, no second choices": Case({"num_selected_experts": 2, "second_expert_policy": "none"}),
  "top-3, dropless": Case({"num_selected_experts": 3}, None, False),
  "sigmoid, top-2, renormalised": Case(
    {"scores": "sigmoid", "num_selected_experts": 2, "renormalize_gates": True}, 2.0
  ),
  "batch-prioritised": Case({"batch_prioritized": True}),
  "batch-prioritised, top-2": Case({"batch_prioritized": True, "num_selected_experts": 2}, 1.5),
  "no token left behind": Case({"no_token_left_behind": 2}),
  "bias": Case({"bias_update_rate": 0.1}),
  "expert choice": Case({"kind": "expert_choice", "experts_per_token": 1.0}),
  "hash": Case({"kind": "hash"}, 0.5),
  "hash, dropless": Case({"kind": "hash"}, None, False),
  "random": Case({"kind": "random"}),
}


def make_layer(options) -> SwitchLayer:
  config = RouterConfig(**({"exploration": "argmax"} if "kind" not in options else {}) | options)
  rngs = nnx.Rngs(params=1)
  layer = SwitchLayer(
    config.make(WIDTH, EXPERTS, scale=4.0, rngs=rngs),
    Experts(EXPERTS, WIDTH, HIDDEN, scale=4.0, rngs=rngs),
    sequences_per_group=N_SEQUENCES,
    min_expert_capacity=1,
    balance_scope=config.balance_scope,
    dtype=jnp.float32,
  )
  if config.bias_update_rate:
    layer.router.bias[...] = jnp.asarray([0.5, -0.5, 0.2, 0.0])
  return layer


def make_inputs():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(BATCH * LENGTH, WIDTH)).astype(np.float32)
  mask = np.arange(LENGTH)[None] < np.asarray([6, 3, 6, 5, 6, 6, 1, 6])[:, None]
  ids = rng.integers(0, 1000, mask.shape).astype(np.int32)
  return jnp.asarray(x), jnp.asarray(mask), jnp.asarray(ids)


def grouped(x):
  return np.asarray(x).reshape(BATCH // N_SEQUENCES, N_SEQUENCES * LENGTH, *np.shape(x)[2:])


def chosen_experts(options, probs, bias, ids, positions):
  """Returns the experts of a token, best first, as a list."""
  kind = options.get("kind", "top_k")
  if kind == "hash" or kind == "random":
    return [fmix32(ids if kind == "hash" else positions) % EXPERTS]
  order = np.argsort(-(probs + bias), kind="stable")[: options.get("num_selected_experts", 1)]
  if options.get("second_expert_policy") == "none":
    return list(order[:1])
  if options.get("second_expert_policy") == "threshold":
    second = probs[order[1]] / probs[order].sum()
    return list(order if second > 0.2 else order[:1])
  return list(order)


def fmix32(number):
  """MurmurHash3's finaliser."""
  number = int(number)
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    number = ((number ^ (number >> shift)) * factor) & 0xFFFFFFFF
  return number ^ (number >> 16)


def places(case, probs, mask, ids, bias):
  """Returns who gets a place, bool [G, N, E], by a loop over tokens, and choices before drops."""
  options, factor, _ = case
  groups, tokens, _ = probs.shape
  capacity = tokens if factor is None else expert_capacity(factor, tokens, EXPERTS, 1)
  kept, load = np.zeros(probs.shape, bool), np.zeros((groups, EXPERTS))
  for g in range(groups):
    real = np.flatnonzero(mask[g])
    if options.get("kind") == "expert_choice":
      share = int(np.ceil(options["experts_per_token"] * len(real) / EXPERTS))
      for e in range(EXPERTS):
        best = sorted(real, key=lambda n: (-probs[g, n, e], n))[:share]
        kept[g, best, e] = True
      load[g] = kept[g].sum(axis=0)
      continue
    choices = {n: chosen_experts(options, probs[g, n], bias, ids[g, n], n % LENGTH) for n in real}
    order = real
    if options.get("batch_prioritized"):
      order = sorted(real, key=lambda n: (-probs[g, n, choices[n][0]], n))
    taken = np.zeros(EXPERTS, int)
    for j in range(3):
      for n in order:
        if j < len(choices[n]):
          e = choices[n][j]
          kept[g, n, e] = taken[e] < capacity
          taken[e] += 1
          load[g, e] += 1
    for j in range(1, options.get("no_token_left_behind", 1)):
      taken = kept[g].sum(axis=0)
      for n in real:
        e = np.argsort(-probs[g, n], kind="stable")[j]
        if not kept[g, n].any() and taken[e] < capacity:
          kept[g, n, e] = True
          taken[e] += 1
  return kept, load


def oracle(case, layer, x, mask, ids):
  """Returns a function of (parameters, x) to (y, report's losses), counts, and who is kept where.

  By the loop above; the last is a Counter of (token id, expert).
  """
  options = case.options
  certain = options.get("kind") in ("hash", "random")
  sigmoid = options.get("scores") == "sigmoid"
  to_scores = jax.nn.sigmoid if sigmoid else jax.nn.softmax
  bias = np.asarray(layer.router.bias) if options.get("bias_update_rate") else np.zeros(EXPERTS)
  logits = jnp.zeros((len(x), EXPERTS)) if certain else x @ layer.router.kernel
  probs = grouped(to_scores(logits).reshape(BATCH, LENGTH, EXPERTS))
  kept, load = places(case, probs, grouped(mask), grouped(ids), bias)
  wanted = np.zeros(kept.shape)  # of the gates that are renormalised: all choices, kept or not
  k = options.get("num_selected_experts", 1)
  np.put_along_axis(wanted, np.argsort(-(probs + bias), axis=-1)[..., :k], 1.0, axis=-1)

  def forward(params, x):
    hidden = jax.nn.relu(jnp.einsum("td,edf->etf", x, params["expert"]["wi"]["kernel"]))
    outputs = jnp.einsum("etf,efd->ted", hidden, params["expert"]["wo"]["kernel"])
    if certain:
      return jnp.einsum("ted,te->td", outputs, kept.reshape(-1, EXPERTS).astype(np.float32)), 0.0
    logits = x @ params["router"]["router_weights"]["w"]["kernel"]
    gates = to_scores(logits)
    distribution = gates / gates.sum(axis=-1, keepdims=True)
    if options.get("renormalize_gates"):
      gates = gates / (gates * wanted.reshape(-1, EXPERTS).astype(np.float32)).sum(
        -1, keepdims=True
      )
    y = jnp.einsum("ted,te->td", outputs, gates * kept.reshape(-1, EXPERTS).astype(np.float32))
    real = jnp.asarray(grouped(mask), jnp.float32)
    squares = (jax.nn.logsumexp(logits, axis=-1) ** 2).reshape(real.shape)
    loss = ((squares * real).sum(axis=1) / real.sum(axis=1)).mean()
    if "kind" not in options:
      sums = (distribution.reshape(kept.shape) * real[..., None]).sum(axis=1)
      counts, tokens = jnp.asarray(load, jnp.float32), real.sum(axis=1)
      if options.get("balance_scope") == "global":
        sums, counts, tokens = (a.sum(axis=0, keepdims=True) for a in (sums, counts, tokens))
      fraction = counts / counts.sum(axis=-1, keepdims=True)
      loss += (EXPERTS * (fraction * sums / tokens[:, None]).sum(axis=-1)).mean()
    return y, loss

  if options.get("kind") == "expert_choice":
    dropped = (grouped(mask) & ~kept.any(axis=-1)).sum()
  else:
    dropped = load.sum() - kept.sum()
  taken = Counter((int(grouped(ids)[g, n]), int(e)) for g, n, e in np.argwhere(kept))
  return forward, load.sum(axis=0), dropped, taken


def with_gradients(forward, params, x):
  def total(params, x):
    y, loss = forward(params, x)
    weights = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
    return (y * weights).sum() + loss, (y, loss)

  (_, (y, loss)), bars = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(params, x)
  return y, loss, bars


def assert_close(got, want):
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True
  ):
    scale = max(float(np.abs(b).max()), 1e-30)
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * scale, err_msg=str(path))


@pytest.mark.parametrize("name", CASES)
def test_outputs_losses_counts_and_gradients_are_the_oracles_on_one_and_eight_devices(name):
  case = CASES[name]
  layer = make_layer(case.options)
  x, mask, ids = make_inputs()
  graph, state = nnx.split(layer)
  params = nnx.to_pure_dict(state)

  def forward(params, x):
    merged = nnx.merge(
      graph, jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(params))
    )
    y, report = merged(x, mask, capacity_factor=case.factor, token_ids=ids)
    return y, report.load_balance_loss + report.router_z_loss

  naive, load, dropped, kept = oracle(case, layer, x, mask, ids)
  assert (dropped > 0) == case.drops
  want = with_gradients(naive, params, x)
  for mesh in ((1, 1, 1), (2, 2, 2)):
    with jax.set_mesh(make_mesh(MeshShape(*mesh))):
      got = jax.device_get(with_gradients(forward, params, x))
      run = jax.jit(lambda: layer(x, mask, capacity_factor=case.factor, token_ids=ids)[1])
      report = jax.device_get(run())
    assert_close(got, want)
    np.testing.assert_array_equal(report.expert_load, load)
    assert report.num_dropped == dropped
    assert report.num_tokens == np.asarray(mask).sum()
    taken = report.taken[report.taken[:, 0] >= 0]
    np.testing.assert_array_equal(np.bincount(taken[:, 1], minlength=EXPERTS), load)
    if "no_token_left_behind" not in case.options:  # it keeps choices that were no first ones
      assert kept <= Counter(map(tuple, taken.tolist()))
