# SPDX-License-Identifier: Apache-2.0
"""The model as inference has it: what a text becomes does not depend on its batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from switch_t5 import batch as features
from switch_t5.model.switch_transformer import ModelOutput, SwitchTransformer
from switch_t5.sharding.mesh import DATA, EXPERT
from switch_t5.types import DeviceBatch

# From this many rows on XLA on CPU sums every row of a matmul in the same order, however many rows
# there are; below it, it has other programs for other numbers of rows.
MIN_ROWS = 128


def infer(model: SwitchTransformer, batch: DeviceBatch) -> ModelOutput:
  """Runs a batch without capacity and without noise.

  Small batches are filled up with sequences of padding, so that on one device the logits of a
  sequence are the same bits alone and in any batch of the same lengths.

  Args:
    model: the model.
    batch: features [B, length].

  Returns:
    Logits [B * T, V] and the reports of the routers, which padding does not enter.
  """
  mesh = jax.sharding.get_abstract_mesh().shape
  rows, length = batch[features.DECODER_INPUT_TOKENS].shape
  shortest = min(batch[features.ENCODER_INPUT_TOKENS].shape[1], length)
  needed = mesh[DATA] * mesh[EXPERT] * -(-MIN_ROWS // shortest)
  if rows < needed:
    batch = {name: jnp.pad(x, ((0, needed - rows), (0, 0))) for name, x in batch.items()}
  output = model(batch, capacity_factor=None)
  return output._replace(logits=output.logits[: rows * length])
