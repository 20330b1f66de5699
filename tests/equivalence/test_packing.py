# SPDX-License-Identifier: Apache-2.0
"""Packing by the indexed reader changes no example's loss."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from switch_t5.data import example_cache, indexed
from switch_t5.data.vocabulary import Vocabulary, embedded_vocabulary_path
from switch_t5.model.definition import define_model
from switch_t5.sharding.mesh import MeshShape, make_mesh

LENGTHS = {"inputs": 16, "targets": 10}


class ShortExamples:
  """A task of 24 random examples of 1 to 9 inputs and 0 to 5 targets."""

  name = "short"

  def vocabulary(self):
    return Vocabulary(embedded_vocabulary_path())

  def provenance(self):
    return {}

  def splits(self):
    return ("train",)

  def kept_eos(self):
    return ()

  def examples(self, split):
    rng = np.random.default_rng(0)
    for number in range(24):
      yield rng.integers(2, 128, number % 9 + 1), rng.integers(2, 128, number % 6)


def test_examples_of_packed_batches_have_the_losses_they_have_alone(tiny_config, tmp_path):
  """Inputs and targets of one row, several examples of it, and some without targets."""
  example_cache.write_examples(ShortExamples(), tmp_path / "cache")
  config = dataclasses.replace(tiny_config, sequences_per_group=1)
  definition = define_model(config)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 4, leaf.dtype), definition.shapes
  )

  @jax.jit
  def token_losses(batch):
    output = definition.build(params)(batch, capacity_factor=float(config.num_experts))
    logits = output.logits.reshape(*batch["decoder_target_tokens"].shape, -1)
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits.astype(jnp.float32), batch["decoder_target_tokens"]
    )
    return losses * batch["decoder_loss_weights"], output.router.num_dropped.sum()

  def losses(pack):
    """The loss of each example that has targets, by its targets; and the number of rows."""
    reader = indexed.IndexedReader(
      tmp_path / "cache",
      "train",
      feature_lengths=LENGTHS,
      batch_size=4,
      seed=1,
      num_epochs=1,
      pack=pack,
    )
    found = {}
    for batch in reader:
      with jax.set_mesh(make_mesh(MeshShape())):
        by_token, dropped = token_losses({k: jnp.asarray(v) for k, v in batch.items()})
      assert dropped == 0
      for row, segments in enumerate(batch["decoder_segment_ids"]):
        for segment in set(segments[segments > 0].tolist()):
          mine = segments == segment
          targets = tuple(batch["decoder_target_tokens"][row][mine].tolist())
          found[targets] = float(np.asarray(by_token)[row][mine].sum())
    return found, reader.num_rows

  (packed, packed_rows), (alone, alone_rows) = losses(True), losses(False)
  assert packed_rows < alone_rows / 1.5 and len(alone) == 20
  assert packed.keys() == alone.keys()
  for targets, loss in alone.items():
    np.testing.assert_allclose(packed[targets], loss, rtol=1e-4)
