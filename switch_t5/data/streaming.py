# SPDX-License-Identifier: Apache-2.0
"""The streaming reader: batches of any seqio task or mixture, straight from its source.

seqio makes the examples and `EncDecFeatureConverter` packs or pads them; what comes out are NumPy
batches with the features of `switch_t5.batch`. Several processes read a *shard* of the examples
each. The position in the data is the state of TensorFlow's iterators, one of each process: it is
exact, but belongs to that number of shards and rows; another one is refused. A reader that goes on
at any number of processes, and needs a fraction of the time, is `indexed`.

This module loads TensorFlow.
"""

from __future__ import annotations

import base64
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import seqio
import tensorflow as tf

from switch_t5 import batch as batch_lib
from switch_t5 import errors
from switch_t5.data.vocabulary import Vocabulary
from switch_t5.sharding.placement import from_all_processes
from switch_t5.types import HostBatch

_FEATURES = ("inputs", "targets")
_PREFETCHED_BATCHES = 2
# What seqio, TFDS and tf.data raise when a data set cannot be opened or read.
FAILURES = (tf.errors.OpError, OSError, ValueError, AssertionError)


class StreamingReader:
  """An iterator over batches, with a position that can be saved and restored.

  Every process of a run makes one and calls its methods together with the others.
  """

  def __init__(
    self,
    name: str,
    split: str,
    *,
    feature_lengths: Mapping[str, int],
    batch_size: int,
    seed: int,
    rows: Sequence[int] | np.ndarray | None = None,
    shard_index: int = 0,
    num_shards: int = 1,
    shuffle: bool = True,
    num_epochs: int | None = None,
    pack: bool = True,
  ):
    """Opens one split.

    Args:
      name: of a task or mixture in seqio's registries.
      split: its name.
      feature_lengths: `{"inputs": S, "targets": T}`; longer examples are cut.
      batch_size: rows of the batch that the shard is cut into.
      seed: of the order and of what the task draws.
      rows: the places in that batch whose rows are delivered; all of them if not given.
      shard_index: which shard of the examples is read, of `num_shards`.
      num_shards: see there.
      shuffle: whether files and examples are shuffled; examples with the task's own buffer.
      num_epochs: when to stop; never if not given. The last batch is filled up with rows that are
        all padding: segment ids and loss weights 0.
      pack: whether a row holds several examples, or one.

    Raises:
      ConfigError: seqio has no task of that name, or it has other features.
      DataError: there is no such split, or the data cannot be opened.
    """
    self._name = name
    self._rows = np.arange(batch_size) if rows is None else np.asarray(rows, np.int64)
    self._batch_size = batch_size
    self._layout = {
      "processes": jax.process_count(),
      "shards": num_shards,
      "rows": len(self._rows),
    }
    provider = find_task(name)
    try:
      if split not in provider.splits:
        raise _no_such_split(name, split, provider.splits)
      dataset = seqio.get_dataset(
        name,
        dict(feature_lengths),
        seqio.EncDecFeatureConverter(pack=pack),
        dataset_split=split,
        shuffle=shuffle,
        num_epochs=num_epochs,
        shard_info=seqio.ShardInfo(shard_index, num_shards),
        seed=seed,
        verbose=False,
      )
    except FAILURES as error:
      raise unreadable(self._name, error) from error
    self._iterator = iter(dataset.batch(batch_size).prefetch(_PREFETCHED_BATCHES))

  def __iter__(self) -> StreamingReader:
    return self

  def __next__(self) -> HostBatch:
    """Returns this process's rows of the next batch: the features of `switch_t5.batch`.

    Raises:
      DataError: the source cannot be read.
    """
    try:
      batch = {name: value.numpy() for name, value in next(self._iterator).items()}
    except FAILURES as error:
      raise unreadable(self._name, error) from error
    missing = self._batch_size - len(batch[batch_lib.ENCODER_INPUT_TOKENS])
    return _features(
      {name: np.pad(value, ((0, missing), (0, 0)))[self._rows] for name, value in batch.items()}
    )

  def state(self) -> dict[str, Any]:
    """Returns the positions of all processes: JSON, a few megabytes for each of them."""
    return self._layout | {"iterators": from_all_processes(_save(self._iterator))}

  def restore(self, state: Mapping[str, Any]) -> None:
    """Goes on where a reader with the same arguments was.

    Raises:
      DataError: the position is of another number of processes, shards or rows, or it cannot be
        read.
    """
    saved = {name: state[name] for name in self._layout}
    if saved != self._layout:
      raise errors.DataError(
        "The position in the streamed data is of another layout.",
        value=_words(self._layout),
        rule=f"{_words(saved)}: each process goes on with the shard that it was reading",
        remedy="go on with that number of processes, and the same MESH_SHAPE and BATCH_SIZE; or "
        "start a run in another MODEL_DIR with DatasetConfig.reader = 'indexed', which goes on at "
        "any number of processes (switch_t5 cache writes what it reads)",
      )
    try:
      _load(self._iterator, state["iterators"][jax.process_index()])
    except (*FAILURES, zlib.error) as error:
      raise errors.DataError(
        "The position in the streamed data cannot be restored.",
        value=self._name,
        rule=f"it was saved by the same task and version of TensorFlow ({_first_line(error)})",
        remedy="start a run in another MODEL_DIR",
      ) from error


def find_task(name: str) -> seqio.Task | seqio.Mixture:
  """Returns a task or mixture from seqio's registries.

  Raises:
    ConfigError: there is none of that name, or it is not made of inputs and targets.
  """
  known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
  if name not in known:
    raise errors.ConfigError(
      "The task is not known to seqio.",
      value=name,
      rule="a task or mixture in seqio's registries",
      remedy=f"{errors.suggest(name, known)} A module that registers tasks is given as "
      "--import=MODULE.",
    )
  provider = seqio.get_mixture_or_task(name)
  if not set(_FEATURES) <= set(provider.output_features):
    raise errors.ConfigError(
      "The task has other features than an encoder-decoder model.",
      value=f"{name}: {', '.join(provider.output_features)}",
      rule=f"the features {' and '.join(_FEATURES)}",
    )
  return provider


def vocabulary_of(name: str) -> Vocabulary:
  """Returns the vocabulary of a task or mixture in seqio's registries.

  Raises:
    ConfigError: see `find_task`; or the vocabulary is none of SentencePiece.
    DataError: its file cannot be read.
  """
  vocabulary = find_task(name).output_features["targets"].vocabulary
  if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
    raise errors.ConfigError(
      "The task's vocabulary is not supported.",
      value=f"{name}: {type(vocabulary).__name__}",
      rule="a seqio.SentencePieceVocabulary, as T5's tasks have",
    )
  return Vocabulary(vocabulary.sentencepiece_model_file, vocabulary.extra_ids)


def _features(batch: Mapping[str, np.ndarray]) -> HostBatch:
  """Returns our features, [rows, length], of those of seqio's converter."""
  inputs = batch[batch_lib.ENCODER_INPUT_TOKENS]
  targets = batch[batch_lib.DECODER_TARGET_TOKENS]
  # Without packing seqio gives no segments: a row's example ends with its last token.
  encoder_segments = batch.get(batch_lib.ENCODER_SEGMENT_IDS, _up_to_last_token(inputs))
  decoder_segments = batch.get(batch_lib.DECODER_SEGMENT_IDS, _up_to_last_token(targets))
  return {
    batch_lib.ENCODER_INPUT_TOKENS: inputs,
    batch_lib.ENCODER_SEGMENT_IDS: encoder_segments,
    batch_lib.DECODER_INPUT_TOKENS: batch_lib.shift_right(targets, decoder_segments),
    batch_lib.DECODER_TARGET_TOKENS: targets,
    batch_lib.DECODER_SEGMENT_IDS: decoder_segments,
    batch_lib.DECODER_LOSS_WEIGHTS: batch[batch_lib.DECODER_LOSS_WEIGHTS].astype(np.float32),
  }


def _up_to_last_token(tokens: np.ndarray) -> np.ndarray:
  """Returns 1 up to the last id that is not 0, and 0 after it: int32 [rows, length]."""
  return np.maximum.accumulate(tokens[:, ::-1] != 0, axis=1)[:, ::-1].astype(np.int32)


def _save(iterator: tf.data.Iterator) -> dict[str, str]:
  """Returns the files of the iterator's checkpoint by their endings, compressed, as base64."""
  with tempfile.TemporaryDirectory() as folder:
    prefix = Path(tf.train.Checkpoint(iterator=iterator).write(f"{folder}/iterator"))
    return {
      path.name.removeprefix(prefix.name): base64.b64encode(
        zlib.compress(path.read_bytes())
      ).decode("ascii")
      for path in prefix.parent.iterdir()
    }


def _load(iterator: tf.data.Iterator, files: Mapping[str, str]) -> None:
  with tempfile.TemporaryDirectory() as folder:
    for ending, content in files.items():
      Path(f"{folder}/iterator{ending}").write_bytes(zlib.decompress(base64.b64decode(content)))
    tf.train.Checkpoint(iterator=iterator).read(f"{folder}/iterator").assert_consumed()


def unreadable(name: str, error: Exception) -> errors.DataError:
  """Returns the error of a task whose data cannot be read."""
  return errors.DataError(
    "The data cannot be read.",
    value=name,
    rule=f"its source can be read ({_first_line(error)})",
    remedy="check that the task's data set is prepared and its files are there",
  )


def _no_such_split(name: str, split: str, known: Sequence[str]) -> errors.DataError:
  return errors.DataError(
    f"The task {name} has no such split.",
    value=split,
    rule="a split of the task",
    remedy=errors.suggest(split, known),
  )


def _words(layout: Mapping[str, int]) -> str:
  return "{processes} process(es), {shards} shard(s), {rows} rows of each process".format(**layout)


def _first_line(error: Exception) -> str:
  return (str(error) or repr(error)).splitlines()[0]
