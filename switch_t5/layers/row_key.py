# SPDX-License-Identifier: Apache-2.0
"""A key for noise that does not depend on how a batch is cut into microbatches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from switch_t5.types import Array, PRNGKey


class RowKey(NamedTuple):
  """A key, and which rows of the step's batch it is for: what a row draws follows from its number.

  Attributes:
    key: of one place in the model.
    first_row: int32 [], the number in the whole batch of the first row that is worked on.
  """

  key: PRNGKey
  first_row: Array | np.int32 = np.int32(0)

  def split(self, num: int) -> tuple[RowKey, ...]:
    """Returns keys for `num` places."""
    return tuple(self._replace(key=key) for key in jax.random.split(self.key, num))

  def fold_in(self, data: int) -> RowKey:
    """Returns the key of another place; `data` is at least what `num` is where the key is also split."""
    return self._replace(key=jax.random.fold_in(self.key, data))

  def of_rows(self, num: int) -> PRNGKey:
    """Returns a key for each of the `num` rows, [num]."""
    return jax.vmap(partial(jax.random.fold_in, self.key))(self.first_row + jnp.arange(num))


def split_key(key: RowKey | None, num: int) -> tuple[RowKey | None, ...]:
  """Returns `num` keys, or that many None."""
  return (None,) * num if key is None else key.split(num)


def stack_keys(keys: Sequence[RowKey]) -> RowKey:
  """Returns keys of one batch with a leading axis, for a scan."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *keys)
