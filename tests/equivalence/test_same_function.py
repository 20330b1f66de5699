# SPDX-License-Identifier: Apache-2.0
"""What must change nothing: packing, padding, unrolling, rematerialisation, microbatches."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from switch_t5.batch import shift_right
from switch_t5.model.definition import define_model
from switch_t5.sharding.mesh import MeshShape, make_mesh


def test_unrolled_blocks_are_the_rolled_scan(train, assert_same_step):
  assert_same_step(train(scan_unroll=2), train())


@pytest.mark.parametrize("remat", ["attention", "full"])
def test_rematerialisation_changes_no_gradient_and_repeats_no_all_to_all(
  train, assert_same_step, remat
):
  """On (1, 4, 2): the dispatched and the returned buffers are kept, not sent a third time."""
  kept, recomputed = train((1, 4, 2)), train((1, 4, 2), remat=remat)
  assert_same_step(recomputed, kept)
  count = [run.program.count(" all-to-all(") for run in (kept, recomputed)]
  # Two compiled Switch layers (the encoder's blocks are one loop): two forward and two backward each.
  assert count == [8, 8]


@pytest.mark.parametrize("mesh", [(1, 1, 1), (2, 1, 1)])
def test_microbatches_of_unequal_weight_add_up_to_the_batch(train, assert_same_step, mesh):
  assert_same_step(train(mesh, num_microbatches=2), train())


def test_padding_every_sequence_changes_no_loss_and_no_gradient(train, assert_same_step):
  """A third longer, at a capacity factor of three quarters: the same places for the same tokens."""
  padded = train(lengths=(16, 12), train_capacity_factor=1.25 * 3 / 4)
  assert_same_step(padded, train())


def test_packed_examples_get_the_logits_they_get_alone(tiny_config):
  """Two examples in a row against a row each, where nothing is dropped."""
  config = dataclasses.replace(tiny_config, sequences_per_group=1)
  definition = define_model(config)
  rng = np.random.default_rng(0)
  examples = [  # (encoder tokens, decoder targets)
    tuple(rng.integers(1, 128, length) for length in lengths)
    for lengths in ((7, 5), (5, 4), (3, 6), (9, 2))
  ]

  def rows(groups):
    """One row for each group of examples, padded to four rows of 14 and 9 tokens."""
    batch = {}
    for stack, (part, length) in {"encoder": (0, 14), "decoder": (1, 9)}.items():
      tokens, ids = np.zeros((2, len(examples), length), np.int32)
      for row, group in enumerate(groups):
        packed = np.concatenate([examples[i][part] for i in group])
        tokens[row, : len(packed)] = packed
        numbers = np.repeat(np.arange(len(group)) + 1, [len(examples[i][part]) for i in group])
        ids[row, : len(packed)] = numbers
      batch[f"{stack}_segment_ids"] = ids
      batch[f"{stack}_input_tokens"] = tokens if stack == "encoder" else shift_right(tokens, ids)
    return batch

  @jax.jit
  def forward(params, batch):
    return definition.build(params)(batch, capacity_factor=float(config.num_experts))

  def logits(groups):
    """Those of real target tokens, by example."""
    batch = rows(groups)
    with jax.set_mesh(make_mesh(MeshShape())):
      output = forward(params, {name: jnp.asarray(array) for name, array in batch.items()})
    assert output.router.num_dropped.sum() == 0
    by_row = np.asarray(output.logits).reshape(len(examples), 9, -1)
    ids = batch["decoder_segment_ids"]
    return {
      i: by_row[row][ids[row] == number + 1]
      for row, group in enumerate(groups)
      for number, i in enumerate(group)
    }

  params = jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 4, leaf.dtype), definition.shapes
  )
  alone, packed = logits([(0,), (1,), (2,), (3,)]), logits([(0, 1), (2, 3)])
  for i, (_, targets) in enumerate(examples):
    assert packed[i].shape == (len(targets), 128)
    np.testing.assert_allclose(packed[i], alone[i], rtol=1e-4, atol=1e-5)
