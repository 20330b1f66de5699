# SPDX-License-Identifier: Apache-2.0
"""A small Switch model learns to reverse words, and is asked greedily and with beams."""

from __future__ import annotations

import json

import jax
import reversing
import runs

import switch_t5


def test_a_model_that_learned_to_reverse_words_does_so(tmp_path):
  vocabulary_path = reversing.write_vocabulary(tmp_path)
  reversing.register(vocabulary_path)
  model_dir = tmp_path / "model"
  with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes int32 and floats
    code, _, errors = runs.run_here(
      "train",
      f"--gin_file={runs.ROOT / 'tests' / 'reversing.gin'}",
      f"--gin.MODEL_DIR={str(model_dir)!r}",
      f"--gin.TASK_DATA_DIR={str(tmp_path / 'data')!r}",
      f"--gin.VOCABULARY_PATH={vocabulary_path!r}",
    )
  assert code == 0, errors
  best = json.loads((model_dir / "best.json").read_text())
  assert best["value"] > 95

  texts, wanted = zip(*reversing.examples("validation"), strict=True)
  checkpoint = model_dir / "checkpoints" / f"checkpoint_{best['step']}"
  model = switch_t5.load(checkpoint, batch_size=32)
  for options in ({}, {"num_beams": 4}):
    found = model.generate(texts, max_tokens=16, **options)
    exact = reversing.exact_match(wanted, found)["exact_match"]
    assert exact > 95, options
    if not options:
      assert exact == best["value"]
