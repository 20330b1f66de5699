# SPDX-License-Identifier: Apache-2.0
"""A task that a small model learns in half a minute: words in reverse order, with their own vocabulary."""

from __future__ import annotations

import pathlib

import numpy as np
import sentencepiece
import seqio
import tensorflow as tf

from switch_t5.data.vocabulary import EXTRA_IDS

TASK = "reverse_words"
WORDS = (
  *("the", "of", "to", "and", "is", "in", "that", "for", "be"),
  *("are", "with", "this", "as", "if", "array", "function", "return", "by"),
)
COUNTS = {"train": 6000, "validation": 64}


def examples(split: str) -> list[tuple[str, str]]:
  """Returns texts of two or three words, and the words in reverse order."""
  rng = np.random.default_rng(len(split))
  drawn = [rng.choice(WORDS, rng.integers(2, 4)) for _ in range(COUNTS[split])]
  return [(f"reverse: {' '.join(words)}", " ".join(words[::-1])) for words in drawn]


def exact_match(targets: list[str], predictions: list[str]) -> dict[str, float]:
  same = [target == found for target, found in zip(targets, predictions, strict=True)]
  return {"exact_match": 100.0 * sum(same) / len(same)}


def _dataset(split: str, shuffle_files: bool = False, seed: int | None = None) -> tf.data.Dataset:
  del shuffle_files, seed
  inputs, targets = zip(*examples(split), strict=True)
  return tf.data.Dataset.from_tensor_slices({"inputs": list(inputs), "targets": list(targets)})


def write_vocabulary(folder: pathlib.Path) -> str:
  """Trains a SentencePiece model in which each word is a piece, and returns its path."""
  text = folder / "words.txt"
  text.write_text("\n".join(text for text, _ in examples("train")), encoding="utf-8")
  sentencepiece.SentencePieceTrainer.train(
    input=str(text),
    model_prefix=str(folder / "words"),
    vocab_size=60,
    hard_vocab_limit=False,
    user_defined_symbols=[f"\N{LOWER ONE EIGHTH BLOCK}{word}" for word in WORDS],
    minloglevel=3,
    **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
  )
  return str(folder / "words.model")


def register(vocabulary_path: str) -> None:
  """Registers the task with seqio."""
  vocabulary = seqio.SentencePieceVocabulary(vocabulary_path, EXTRA_IDS)
  feature = seqio.Feature(vocabulary, add_eos=True)
  seqio.TaskRegistry.remove(TASK)
  seqio.TaskRegistry.add(
    TASK,
    seqio.FunctionDataSource(_dataset, splits=list(COUNTS), num_input_examples=COUNTS),
    preprocessors=[
      seqio.preprocessors.tokenize,
      seqio.CacheDatasetPlaceholder(),
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={"inputs": feature, "targets": feature},
    metric_fns=[exact_match],
  )
