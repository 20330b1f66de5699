# SPDX-License-Identifier: Apache-2.0
"""What token losses are divided by."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from switch_t5.errors import ConfigError
from switch_t5.losses.normalization import loss_normalizer, token_loss_weights
from switch_t5.losses.objective import LossConfig

# Two rows; the first packs two sequences of 2 and 3 tokens, the second holds one of 4.
SEGMENT_IDS = jnp.asarray([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 0, 0]], jnp.int32)
WEIGHTS = jnp.asarray([[1, 1, 1, 0.5, 0.5, 0], [1, 1, 0, 0, 0, 0]], jnp.float32)


@pytest.mark.parametrize(
  ("factor", "normalizer"),
  [
    ("NUM_REAL_TARGET_TOKENS", 6.0),
    ("NUM_TOTAL_TARGET_TOKENS", 12.0),
    ("AVERAGE_PER_SEQUENCE", 3.0),
    (2500, 2500.0),
    (None, 1.0),
  ],
)
def test_the_normalizer_is_what_t5x_says(factor, normalizer):
  assert loss_normalizer(factor, WEIGHTS, SEGMENT_IDS) == normalizer


def test_every_packed_sequence_counts_the_same():
  weights = token_loss_weights("AVERAGE_PER_SEQUENCE", WEIGHTS, SEGMENT_IDS)
  expected = [[0.5, 0.5, 0.5, 0.25, 0.25, 0], [0.5, 0.5, 0, 0, 0, 0]]
  np.testing.assert_allclose(weights, expected)
  assert token_loss_weights("NUM_REAL_TARGET_TOKENS", WEIGHTS, SEGMENT_IDS) is WEIGHTS


@pytest.mark.parametrize("factor", ["NUM_REAL_TARGET_TOKENS", "AVERAGE_PER_SEQUENCE"])
def test_a_batch_of_padding_alone_is_divided_by_one(factor):
  assert loss_normalizer(factor, jnp.zeros((2, 3)), jnp.zeros((2, 3), jnp.int32)) == 1.0


@pytest.mark.parametrize("factor", ["NUM_TARGET_TOKENS", 0.0, -1, float("nan")])
def test_another_normalizer_is_refused(factor):
  with pytest.raises(ConfigError, match="loss_normalizing_factor"):
    LossConfig(loss_normalizing_factor=factor)


def test_label_smoothing_of_one_is_refused():
  with pytest.raises(ConfigError, match="label_smoothing"):
    LossConfig(label_smoothing=1.0)
