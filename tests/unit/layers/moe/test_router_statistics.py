# SPDX-License-Identifier: Apache-2.0
"""What a router counts, and how groups are reduced to losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from switch_t5.layers.moe.router_statistics import count_tokens, expert_load, report
from switch_t5.sharding.mesh import MeshShape, make_mesh

GROUPS, TOKENS, EXPERTS = 8, 12, 4


@pytest.fixture(scope="module")
def routed():
  """Random logits and a mask; the last group has no real token."""
  rng = np.random.default_rng(0)
  logits = jnp.asarray(2 * rng.normal(size=(GROUPS, TOKENS, EXPERTS)), jnp.float32)
  mask = rng.random((GROUPS, TOKENS)) < 0.7
  mask[-1] = False
  return logits, jnp.asarray(mask)


def counts_of(logits, mask):
  probs = jax.nn.softmax(logits)
  load = expert_load(probs.argmax(axis=-1)[..., None], mask, EXPERTS)
  return count_tokens(logits, probs, mask, load, jnp.zeros(len(mask)))


def report_on(devices, counts, scope="group"):
  with jax.set_mesh(make_mesh(MeshShape(*devices))):
    return report(counts, balances=True, scope=scope)


def test_sums_are_over_real_tokens(routed):
  logits, mask = routed
  counts = counts_of(logits, mask)
  for g in range(GROUPS):
    real = np.asarray(logits[g], np.float64)[np.asarray(mask[g])]
    exponentials = np.exp(real)
    probs = exponentials / exponentials.sum(axis=-1, keepdims=True)
    assert counts.num_tokens[g] == len(real)
    np.testing.assert_array_equal(counts.load[g], np.bincount(probs.argmax(-1), minlength=EXPERTS))
    np.testing.assert_allclose(counts.score_sum[g], probs.sum(axis=0), rtol=1e-5)
    squares = np.log(exponentials.sum(axis=-1)) ** 2
    np.testing.assert_allclose(counts.z_loss[g], squares.sum(), rtol=1e-5)
    np.testing.assert_allclose(counts.entropy[g], -(probs * np.log(probs)).sum(), rtol=1e-5)
    np.testing.assert_allclose(counts.confidence[g], probs.max(axis=-1, initial=0).sum(), rtol=1e-5)


def test_a_choice_of_no_expert_counts_for_none():
  index = jnp.asarray([[[0, 1], [2, 4], [4, 4]]])
  load = expert_load(index, jnp.asarray([[True, True, True]]), 4)
  np.testing.assert_array_equal(load, [[1, 1, 1, 0]])


def balance(probs, chosen):
  """The paper's formula (eq. 4-6) over one scope."""
  fraction = np.bincount(chosen, minlength=EXPERTS) / max(len(chosen), 1)
  return EXPERTS * (fraction * probs.sum(axis=0) / max(len(chosen), 1)).sum()


@pytest.mark.parametrize(
  ("scope", "devices", "groups_in_scope"),
  [
    ("group", (1, 1, 1), 1),
    ("group", (2, 2, 1), 1),
    ("device", (1, 1, 1), 8),
    ("device", (2, 2, 2), 2),
    ("device", (1, 8, 1), 1),
    ("global", (1, 1, 1), 8),
    ("global", (2, 2, 2), 8),
  ],
)
def test_fractions_of_the_balance_loss_are_over_the_scope(routed, scope, devices, groups_in_scope):
  logits, mask = routed
  probs = np.asarray(jax.nn.softmax(logits), np.float64)
  losses = []
  for first in range(0, GROUPS, groups_in_scope):
    real = np.asarray(mask[first : first + groups_in_scope])
    of_scope = probs[first : first + groups_in_scope][real]
    losses.append(balance(of_scope, of_scope.argmax(axis=-1)))
  got = report_on(devices, counts_of(logits, mask), scope)
  np.testing.assert_allclose(got.load_balance_loss, np.mean(losses), rtol=1e-5)
  # The z-loss is the mean over groups of their means.
  squares = jax.nn.logsumexp(logits, axis=-1) ** 2
  of_groups = [squares[g][mask[g]].mean() if mask[g].any() else 0.0 for g in range(GROUPS)]
  np.testing.assert_allclose(got.router_z_loss, np.mean(of_groups), rtol=1e-5)


def test_groups_of_padding_alone_have_no_loss_and_finite_gradients(routed):
  logits, _ = routed
  nothing = jnp.zeros((GROUPS, TOKENS), bool)

  def losses(logits):
    got = report(counts_of(logits, nothing), balances=True, scope="group")
    return got.load_balance_loss + got.router_z_loss

  loss, gradient = jax.value_and_grad(losses)(logits)
  assert loss == 0
  np.testing.assert_array_equal(gradient, np.zeros_like(gradient))
