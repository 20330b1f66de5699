# SPDX-License-Identifier: Apache-2.0
"""What a row draws follows from its number in the whole batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from switch_t5.layers.dropout import dropout_tokens
from switch_t5.layers.row_key import RowKey


def test_half_of_a_batch_draws_what_the_whole_batch_does():
  key = jax.random.key(0)
  x = jnp.ones((6 * 5, 16))
  whole = dropout_tokens(x, 0.5, RowKey(key), batch_size=6)
  halves = [dropout_tokens(x[:15], 0.5, RowKey(key, np.int32(n)), batch_size=3) for n in (0, 3)]
  np.testing.assert_array_equal(jnp.concatenate(halves), whole)


def test_rows_and_places_draw_each_their_own():
  key = RowKey(jax.random.key(0))
  keys = [key, *key.split(3), key.fold_in(3)]
  drawn = [tuple(row) for k in keys for row in np.asarray(jax.random.key_data(k.of_rows(4)))]
  assert len(set(drawn)) == 5 * 4
