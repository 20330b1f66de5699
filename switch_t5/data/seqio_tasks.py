# SPDX-License-Identifier: Apache-2.0
"""The span-corruption tasks as seqio tasks, for whoever works with seqio.

After `register_tasks()`, `seqio.get_mixture_or_task("embedded_span_corruption")` has the features
`inputs` and `targets`, the splits `train` and `validation`, and T5's steps in T5's order. Training
from a cache needs none of this: this module and `streaming` alone load seqio and TensorFlow.

Documents are joined 128 at a time, without separators, and split into windows as T5 does, so the
last window of each 128 documents is shorter. Spans are corrupted as by `span_corruption`, with other
random numbers, and in TensorFlow: threads of tf.data that wait for Python may keep a process from
ending. T5 also cuts a random piece out of documents above 65,536 tokens; here they are used whole.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import seqio
import tensorflow as tf

from switch_t5 import errors
from switch_t5.data import documents, span_corruption, tasks, tfds_source

_DOCUMENTS_JOINED = 128  # T5's


def register_tasks(
  text_files: str | Sequence[str] | None = None,
  vocabulary_path: str | None = None,
  tfds_data_dir: str | None = None,
) -> None:
  """Registers every task and mixture of `tasks`, in place of any others of their names.

  `text_span_corruption`, and mixtures with it, are registered only if there are text files.

  Args:
    text_files: globs of the text of `text_span_corruption`.
    vocabulary_path: a SentencePiece model file; the embedded one if not given.
    tfds_data_dir: folder of C4 and mC4, as TFDS has prepared them; TFDS's default if not given.

  Raises:
    DataError: a glob matches no file, or the vocabulary is missing or is none.
  """
  arguments = {"vocabulary_path": vocabulary_path, "tfds_data_dir": tfds_data_dir}
  registered = {}
  for name in tasks.task_names():
    files = text_files if name == tasks.TEXT_SPAN_CORRUPTION else None
    if files or name != tasks.TEXT_SPAN_CORRUPTION:
      registered[name] = tasks.get_task(name, text_files=files, **arguments)
      register_task(registered[name])
  for mixture in tasks.mixtures():
    if set(mixture.tasks) <= set(registered):
      register_mixture(mixture, [registered[name] for name in mixture.tasks])


def register(name: str, components: Sequence[tasks.Task]) -> None:
  """Registers a task, or a mixture and its tasks, under its name, in place of any other."""
  for task in components:
    if isinstance(task, tasks.SpanCorruptionTask):
      register_task(task)
  for mixture in tasks.mixtures():
    if mixture.name == name:
      register_mixture(mixture, components)


def register_mixture(mixture: tasks.Mixture, components: Sequence[tasks.Task]) -> None:
  """Registers a mixture of registered tasks under its name, in place of any other.

  Where rates follow from numbers of documents, these are counted when seqio asks for a rate.
  """
  if mixture.name in seqio.MixtureRegistry.names():
    seqio.MixtureRegistry.remove(mixture.name)
  rates = mixture.rates or [
    functools.partial(_rate_by_documents, mixture, task) for task in components
  ]
  seqio.MixtureRegistry.add(mixture.name, list(zip(mixture.tasks, rates, strict=True)))


def _rate_by_documents(mixture: tasks.Mixture, component: tasks.Task, task: seqio.Task) -> float:
  if isinstance(component, tasks.SpanCorruptionTask):
    number = len(component.documents()[documents.TRAIN])
  else:
    number = task.num_input_examples(documents.TRAIN)
  if number is None:
    raise errors.ConfigError(
      f"The rates of the mixture {mixture.name} are not known.",
      value=f"{task.name}: its source does not say how many examples it has",
      rule="rates follow from numbers of examples where none are given",
      remedy="give the mixture rates",
    )
  return mixture.rates_for([number])[0]


def register_task(task: tasks.SpanCorruptionTask) -> None:
  """Registers one task under its name, in place of any other."""
  task.vocabulary()  # a missing file is our error here, not TensorFlow's later
  vocabulary = seqio.SentencePieceVocabulary(task.vocabulary_path, extra_ids=task.extra_ids)
  feature = seqio.Feature(vocabulary=vocabulary, add_eos=True)
  if task.name in seqio.TaskRegistry.names():
    seqio.TaskRegistry.remove(task.name)
  seqio.TaskRegistry.add(
    task.name,
    source=_data_source(task),
    preprocessors=[
      functools.partial(seqio.preprocessors.rekey, key_map={"inputs": None, "targets": "text"}),
      seqio.preprocessors.tokenize,
      seqio.CacheDatasetPlaceholder(),
      join_documents,
      split_windows,
      corrupt_spans,
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={"inputs": feature, "targets": feature},
  )


def _data_source(task: tasks.SpanCorruptionTask) -> seqio.DataSource:
  source = task.source
  if isinstance(source, tfds_source.TfdsSource):
    return seqio.TfdsDataSource(
      source.name, source.root(), splits=dict(source.splits), read_only=True
    )
  return seqio.FunctionDataSource(functools.partial(_documents, task), splits=documents.SPLITS)


def _documents(
  task: tasks.SpanCorruptionTask, split: str, shuffle_files: bool, seed: int | None = None
) -> tf.data.Dataset:
  """Returns the documents of a split as `{"text": string}`."""
  del shuffle_files, seed  # there is one file at most; seqio shuffles examples itself
  return tf.data.Dataset.from_tensor_slices({"text": list(task.documents()[split])})


def join_documents(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Joins the tokens of 128 documents, in the order given (T5's `reduce_concat_tokens`)."""
  joined = dataset.map(lambda example: example["targets"]).ragged_batch(_DOCUMENTS_JOINED)
  return joined.map(lambda documents: {"targets": documents.flat_values})


def split_windows(dataset: tf.data.Dataset, sequence_length: Mapping[str, int]) -> tf.data.Dataset:
  """Splits tokens into the windows that fill the inputs (T5's `split_tokens`)."""
  window = span_corruption.window_for_inputs(sequence_length["inputs"])

  def split(example: Mapping[str, tf.Tensor]) -> tf.data.Dataset:
    tokens = example["targets"]
    starts = tf.range(0, tf.size(tokens), window)
    lengths = tf.minimum(window, tf.size(tokens) - starts)
    windows = tf.data.Dataset.from_tensor_slices(tf.RaggedTensor.from_row_lengths(tokens, lengths))
    # A single token has no room for a kept and a noise span.
    return windows.filter(lambda row: tf.size(row) >= 2).map(lambda row: {"targets": row})

  return dataset.flat_map(split)


@seqio.map_over_dataset(num_seeds=1)
def corrupt_spans(
  example: Mapping[str, tf.Tensor],
  output_features: Mapping[str, seqio.Feature],
  seed: tf.Tensor,
) -> dict[str, tf.Tensor]:
  """Corrupts one window: `targets` become `inputs` and `targets`, without EOS."""
  tokens = example["targets"]
  words = tf.random.stateless_uniform(
    [tf.size(tokens) - 2], seed, minval=None, maxval=None, dtype=tf.int64
  )
  noise = noise_mask(words)
  top_id = output_features["targets"].vocabulary.vocab_size - 1
  return {
    "inputs": replace_spans(tokens, noise, top_id),
    "targets": replace_spans(tokens, ~noise, top_id),
  }


def noise_mask(words: tf.Tensor) -> tf.Tensor:
  """Returns which tokens are noise: bool [L]. `span_corruption.noise_masks` of one row.

  Args:
    words: integers [L - 2], random.
  """
  length = tf.size(words) + 2
  share = tf.cast(length, tf.float64) * span_corruption.NOISE_DENSITY
  noise = tf.clip_by_value(tf.cast(tf.round(share), tf.int32), 1, length - 1)
  spans = tf.cast(tf.round(tf.cast(noise, tf.float64) / span_corruption.MEAN_SPAN_LENGTH), tf.int32)
  spans = tf.maximum(spans, 1)
  kept = length - noise
  parts = [_random_parts(words[: kept - 1], spans), _random_parts(words[kept - 1 :], spans)]
  lengths = tf.reshape(tf.stack(parts, axis=1), [-1])  # kept, noise, kept, noise, ...
  return tf.repeat(tf.range(2 * spans) % 2 == 1, lengths)


def _random_parts(words: tf.Tensor, parts: tf.Tensor) -> tf.Tensor:
  """Splits n + 1 items into non-empty parts, uniformly: int32 [parts]; `words` are [n]."""
  ends = tf.sort(tf.argsort(words)[: parts - 1]) + 1
  edges = tf.concat([[0], ends, [tf.size(words) + 1]], axis=0)
  return edges[1:] - edges[:-1]


def replace_spans(tokens: tf.Tensor, replaced: tf.Tensor, top_id: int) -> tf.Tensor:
  """Replaces each run of `replaced` tokens by a sentinel, `top_id` downwards."""
  starts = replaced & ~tf.concat([[False], replaced[:-1]], axis=0)
  sentinels = top_id + 1 - tf.cumsum(tf.cast(starts, tf.int32))
  return tf.boolean_mask(tf.where(starts, sentinels, tokens), starts | ~replaced)
