# SPDX-License-Identifier: Apache-2.0
"""Caches of examples and the rows that are made of them, held against seqio's own pipeline."""

from __future__ import annotations

import functools
import itertools
import shutil

import numpy as np
import pytest
import reading

from switch_t5 import errors
from switch_t5.data import cache, example_cache, example_tasks, indexed, tasks, vocabulary

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own

LENGTHS = {"inputs": 40, "targets": 12}
COUNT = 150


def _texts(split) -> tuple[list[str], list[str]]:
  """Questions and answers; some are longer than a row, and some answers are empty."""
  numbers = range(COUNT if split == "train" else 20)
  counts = [(number % 6 + 1) * (9 if number % 10 == 7 else 1) for number in numbers]
  questions = [" ".join(f"{split} {k}" for k in range(count)) for count in counts]
  answers = [" ".join(["yes"] * (number % 7 * (3 if number % 5 == 0 else 1))) for number in numbers]
  return [f"{number}: {text}" for number, text in zip(numbers, questions, strict=True)], answers


def _source(split, shuffle_files, seed=None):
  import tensorflow as tf

  questions, answers = _texts(split)
  return tf.data.Dataset.from_tensor_slices({"inputs": questions, "targets": answers})


def _halve(dataset, sequence_length):
  half = sequence_length["inputs"] // 2
  return dataset.map(lambda e: e | {name: e[name][:half] for name in ("inputs", "targets")})


@pytest.fixture(scope="module")
def seqio():
  """Seqio with tasks that differ in how they end, and a mixture."""
  import seqio

  def drop_some(dataset):
    import tensorflow as tf

    @seqio.map_over_dataset(num_seeds=1)
    def change(example, seed):
      kept = tf.random.stateless_uniform([tf.size(example["inputs"])], seed) < 0.5
      return example | {"inputs": tf.boolean_mask(example["inputs"], kept)}

    return change(dataset)

  steps = seqio.preprocessors
  vocab = seqio.SentencePieceVocabulary(vocabulary.embedded_vocabulary_path(), extra_ids=100)
  with_eos = seqio.Feature(vocabulary=vocab, add_eos=True)
  without = seqio.Feature(vocabulary=vocab, add_eos=False)
  registered = {
    "ends_kept": (with_eos, [steps.tokenize, steps.append_eos_after_trim]),
    "ends_cut": (with_eos, [steps.tokenize, steps.append_eos]),
    "no_ends": (without, [steps.tokenize, steps.append_eos_after_trim]),
    "random": (with_eos, [steps.tokenize, drop_some, steps.append_eos_after_trim]),
    "by_length": (with_eos, [steps.tokenize, _halve, steps.append_eos_after_trim]),
  }
  for name, (feature, preprocessors) in registered.items():
    seqio.TaskRegistry.add(
      name,
      source=seqio.FunctionDataSource(_source, splits=["train", "validation"]),
      preprocessors=preprocessors,
      output_features={"inputs": feature, "targets": feature},
    )
  seqio.MixtureRegistry.add("both_ends", [("ends_kept", 3.0), ("ends_cut", 1.0)])
  yield seqio
  seqio.MixtureRegistry.remove("both_ends")
  for name in registered:
    seqio.TaskRegistry.remove(name)


@pytest.fixture(scope="module")
def written(seqio, tmp_path_factory):
  """Writes the cache of a task, once."""

  @functools.cache
  def write(name):
    directory = tmp_path_factory.mktemp("examples") / name
    task = example_tasks.ExampleTask(name, LENGTHS)
    example_cache.write_examples(task, directory, shard_examples=64)
    return directory

  return write


def _expected(seqio, name, split="train", lengths=LENGTHS):
  """The examples that seqio's pipeline gives, in its order."""
  dataset = seqio.TaskRegistry.get(name).get_dataset(
    sequence_length=lengths, split=split, shuffle=False, seed=0
  )
  return [
    (example["inputs"].tolist(), example["targets"].tolist())
    for example in dataset.as_numpy_iterator()
  ]


def _reader(caches, split="train", **arguments):
  arguments = {"feature_lengths": LENGTHS, "batch_size": 4, "seed": 5} | arguments
  return indexed.IndexedReader(caches, split, **arguments)


def _unpacked(rows) -> list[list[tuple[list[int], list[int]]]]:
  """The examples of each row, by their segments, which must be contiguous and in order."""
  found = []
  for row in range(len(rows["encoder_input_tokens"])):
    sides = []
    for tokens, ids in (
      ("encoder_input_tokens", "encoder_segment_ids"),
      ("decoder_target_tokens", "decoder_segment_ids"),
    ):
      segments = rows[ids][row]
      real = segments[segments > 0]
      assert (np.diff(real) >= 0).all() and (segments[len(real) :] == 0).all()
      assert (rows[tokens][row][segments == 0] == 0).all()
      sides.append({n: rows[tokens][row][segments == n].tolist() for n in set(real.tolist())})
    numbers = range(1, max([0, *sides[0], *sides[1]]) + 1)
    found.append([(sides[0].get(n, []), sides[1].get(n, [])) for n in numbers])
  return found


@pytest.mark.parametrize("name", ["ends_kept", "ends_cut", "no_ends", "by_length", "random"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_rows_of_one_example_are_those_of_seqio(seqio, written, name, split):
  reader = _reader(written(name), split, pack=False, shuffle=False, num_epochs=1, batch_size=1)
  rows = reading.take(reader, 1000)
  expected = _expected(seqio, name, split)
  assert len(rows["encoder_input_tokens"]) == len(expected) == reader.num_rows
  assert name in ("by_length", "random") or any(len(inputs) == 40 for inputs, _ in expected)
  for row, (inputs, targets) in enumerate(expected):
    for feature, ids, tokens in (
      ("encoder_input_tokens", "encoder_segment_ids", inputs),
      ("decoder_target_tokens", "decoder_segment_ids", targets),
    ):
      padding = [0] * (rows[feature].shape[1] - len(tokens))
      assert rows[feature][row].tolist() == tokens + padding
      assert rows[ids][row].tolist() == [1] * len(tokens) + padding


@pytest.mark.parametrize("lengths", [{"inputs": 9, "targets": 3}, {"inputs": 1, "targets": 1}])
def test_one_cache_serves_any_lengths(seqio, written, lengths):
  for name in ("ends_kept", "ends_cut"):
    rows = reading.take(
      _reader(written(name), feature_lengths=lengths, pack=False, shuffle=False, num_epochs=1), 1000
    )
    expected = _expected(seqio, name, lengths=lengths)
    assert [example for (example,) in _unpacked(rows)[: len(expected)]] == expected


@pytest.mark.parametrize("name", ["ends_kept", "no_ends"])
def test_every_epoch_holds_every_example_once(seqio, written, name):
  """Also examples without targets: with EOS they hold it alone, else they have inputs alone."""
  reader = _reader(written(name))
  n = reader.num_rows
  rows = _unpacked(reading.take(_reader(written(name), batch_size=1), 3 * n))
  expected = sorted(_expected(seqio, name))
  epochs = [rows[:n], rows[n : 2 * n], rows[2 * n :]]
  assert all(sorted(itertools.chain(*epoch)) == expected for epoch in epochs)
  assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)  # the rows are planned once
  assert epochs[0] != epochs[1] != epochs[2]
  assert n < COUNT / 1.4


def test_an_example_of_no_token_is_in_no_ones_way(seqio, written):
  assert any(targets == [] for _, targets in _expected(seqio, "no_ends"))
  rows = reading.take(_reader(written("no_ends"), batch_size=1), 200)
  starts = np.diff(rows["decoder_segment_ids"], axis=1, prepend=0) > 0
  assert (rows["decoder_input_tokens"][starts] == 0).all()
  np.testing.assert_array_equal(rows["decoder_loss_weights"], rows["decoder_segment_ids"] > 0)


def test_what_is_drawn_at_random_is_the_same_in_every_epoch_and_cache(written, seqio, tmp_path):
  example_cache.write_examples(example_tasks.ExampleTask("random", LENGTHS), tmp_path / "again")
  reading.assert_equal(
    reading.take(_reader(tmp_path / "again"), 20), reading.take(_reader(written("random")), 20)
  )  # also with other shards


@pytest.mark.parametrize("row", [0, 1, 7, 61])
def test_packed_rows_go_on_at_any_row_with_any_batch_size(written, row):
  expected = reading.take(_reader(written("ends_kept"), batch_size=1), row + 30)
  reader = _reader(written("ends_kept"), batch_size=6)
  next(reader)
  reader.restore({"rows_consumed": row})
  reading.assert_equal(reading.take(reader, 5), {name: a[row:] for name, a in expected.items()})


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_together_see_the_packed_rows_that_one_sees(written, processes):
  alone = reading.take(_reader(written("ends_kept"), batch_size=8), 10)
  places = np.random.default_rng(0).permutation(8).reshape(processes, -1)
  seen = {name: np.zeros_like(array) for name, array in alone.items()}
  for own in places:
    rows = reading.take(_reader(written("ends_kept"), batch_size=8, rows=own), 10)
    for name, array in rows.items():
      seen[name].reshape(10, 8, -1)[:, own] = array.reshape(10, len(own), -1)
  reading.assert_equal(seen, alone)


def test_rates_of_a_mixture_count_examples_not_rows(written, fixture_cache):
  components = [indexed.Component(fixture_cache, 1.0), indexed.Component(written("no_ends"), 3.0)]
  rows = reading.take(_reader(components, feature_lengths={"inputs": 40, "targets": 40}), 300)
  windows = (rows["encoder_input_tokens"] >= 8000).any(axis=1)  # sentinels
  examples = sum(
    len(row) for row, window in zip(_unpacked(rows), windows, strict=True) if not window
  )
  assert examples / windows.sum() == pytest.approx(3, rel=0.05)
  assert windows.sum() > len(windows) / 4  # more than a quarter of the rows: they hold one each


def test_the_unigram_entropy_of_examples_is_that_of_their_targets(written, seqio):
  entropy = indexed.unigram_entropy(written("ends_kept"), feature_lengths=LENGTHS)
  counts = [
    np.bincount(
      np.concatenate([targets for _, targets in _expected(seqio, "ends_kept", split)]).astype(int),
      minlength=8100,
    )
    for split in ("train", "validation")
  ]
  probabilities = (counts[0] + 1) / (counts[0] + 1).sum()
  assert entropy == pytest.approx(-(counts[1] * np.log(probabilities)).sum() / counts[1].sum())


def test_tasks_and_mixtures_of_seqio_are_found_with_their_rates(seqio):
  mixture = tasks.get_mixture("both_ends")
  assert mixture == tasks.Mixture("both_ends", ("ends_cut", "ends_kept"), (1.0, 3.0))
  components = tasks.get_components("both_ends", feature_lengths=LENGTHS)
  assert components == tuple(example_tasks.ExampleTask(name, LENGTHS) for name in mixture.tasks)
  assert tasks.get_components("no_ends", feature_lengths=LENGTHS)[0].name == "no_ends"
  with pytest.raises(errors.ConfigError, match="task is not known"):
    tasks.get_components("both_end", feature_lengths=LENGTHS)


def test_a_mixture_of_ours_takes_tasks_of_seqio(seqio, monkeypatch, fixture_text):
  monkeypatch.setattr(tasks, "_mixtures", {})
  tasks.add_mixture(tasks.Mixture("fine", ("text_span_corruption", "no_ends"), (9.0, 1.0)))
  first, second = tasks.get_components(
    "fine", feature_lengths=LENGTHS, text_files=str(fixture_text)
  )
  assert first.name == "text_span_corruption"
  assert second == example_tasks.ExampleTask("no_ends", LENGTHS)
  from switch_t5.data import seqio_tasks

  seqio_tasks.register("fine", (first, second))  # the other reader takes it as well
  try:
    registered = seqio.MixtureRegistry.get("fine")
    assert registered.get_rate(seqio.TaskRegistry.get("no_ends")) == 1.0
    seqio_tasks.register_mixture(tasks.Mixture("fine", ("no_ends",)), (second,))
    with pytest.raises(errors.ConfigError, match="give the mixture rates"):
      seqio.MixtureRegistry.get("fine").get_rate(seqio.TaskRegistry.get("no_ends"))
  finally:
    seqio.MixtureRegistry.remove("fine")


def test_of_several_jobs_the_first_writes_the_examples(seqio, tmp_path):
  task = example_tasks.ExampleTask("no_ends", LENGTHS)
  unfinished = example_cache.write_examples(task, tmp_path / "cache", job=1)
  assert unfinished == cache.Unfinished((0,), 1) and not (tmp_path / "cache").exists()
  info = example_cache.write_examples(task, tmp_path / "cache", job=0)
  assert info.total == unfinished.total
  assert example_cache.write_examples(task, tmp_path / "cache", job=1) == info


def test_a_cache_is_written_once_and_says_what_it_is(written, seqio):
  directory = written("ends_kept")
  before = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
  info = example_cache.write_examples(example_tasks.ExampleTask("ends_kept", LENGTHS), directory)
  assert before == {path: path.stat().st_mtime_ns for path in directory.iterdir()}
  assert info == cache.verify(directory) and info.kind == cache.EXAMPLES
  assert info.splits["train"].documents == COUNT and len(info.splits["train"].shards) == 3
  assert info.source["steps"] == "tokenize, append_eos_after_trim"


def test_the_directory_follows_the_steps_and_the_lengths_they_need(seqio, tmp_path):
  def directory(name, lengths=LENGTHS):
    return cache.cache_directory(tmp_path, example_tasks.ExampleTask(name, lengths))

  assert directory("ends_kept") == directory("ends_kept", {"inputs": 9, "targets": 9})
  assert directory("by_length") != directory("by_length", {"inputs": 9, "targets": 9})
  before = directory("ends_kept")
  task = seqio.TaskRegistry.get("ends_kept")
  seqio.TaskRegistry.remove("ends_kept")
  try:
    for steps in (
      [*task.preprocessors[:-1], seqio.preprocessors.append_eos],
      [functools.partial(task.preprocessors[0], copy_pretokenized=False), *task.preprocessors[1:]],
    ):
      changed = task.replace(preprocessors=steps)
      seqio.TaskRegistry.add_provider("ends_kept", changed)
      assert directory("ends_kept") != before
      seqio.TaskRegistry.remove("ends_kept")
  finally:
    seqio.TaskRegistry.add_provider("ends_kept", task)
  assert directory("ends_kept") == before


def test_the_directory_follows_the_files_of_the_source(seqio, tmp_path):
  text = tmp_path / "text.txt"
  seqio.TaskRegistry.add(
    "lines",
    source=seqio.TextLineDataSource({"train": str(text)}),
    preprocessors=[],
    output_features=seqio.TaskRegistry.get("ends_kept").output_features,
  )
  try:
    directories = []
    for content in ("one\n", "one\ntwo\n", "one\n"):
      text.write_text(content)
      task = example_tasks.ExampleTask("lines", LENGTHS)
      directories.append(cache.cache_directory(tmp_path, task))
  finally:
    seqio.TaskRegistry.remove("lines")
  assert directories[0] == directories[2] != directories[1]


def test_damage_is_found_and_named(written, tmp_path):
  directory = shutil.copytree(written("ends_kept"), tmp_path / "damaged")
  for path in [*directory.glob("*.npy"), *directory.glob("*.array_record")]:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(errors.DataError, match=path.name):
      cache.verify(directory)
    content[-1] ^= 1
    path.write_bytes(content)
  lengths = directory / "train.lengths.npy"
  content = bytearray(lengths.read_bytes())
  content[-4] ^= 1
  lengths.write_bytes(content)
  with pytest.raises(errors.DataError, match=r"train\.lengths\.npy"):
    _reader(directory)
  lengths.unlink()
  with pytest.raises(errors.DataError, match=r"train\.lengths\.npy"):
    _reader(directory)


def _register(seqio, name, features, examples):
  import tensorflow as tf

  specs = {key: tf.TensorSpec([None], tf.int32) for key in ("inputs", "targets")}

  def source(split, shuffle_files, seed=None):
    return tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=specs)

  seqio.TaskRegistry.add(
    name,
    source=seqio.FunctionDataSource(source, splits=["train"]),
    preprocessors=[],
    output_features=features,
  )


@pytest.fixture
def unfit(seqio):
  """Tasks that cannot be read."""
  path = vocabulary.embedded_vocabulary_path()
  vocabularies = [seqio.SentencePieceVocabulary(path, extra) for extra in (100, 10)]
  features = list(map(seqio.Feature, vocabularies))
  one, other = ({"inputs": features[0], "targets": feature} for feature in features)
  _register(seqio, "none", one, [])
  _register(seqio, "high", one, [{"inputs": [5, 8100], "targets": [1]}])
  _register(seqio, "two_vocabularies", other, [])
  yield
  for name in ("none", "high", "two_vocabularies"):
    seqio.TaskRegistry.remove(name)


def test_unfit_tasks_are_refused(unfit, tmp_path):
  def write(name):
    example_cache.write_examples(example_tasks.ExampleTask(name, LENGTHS), tmp_path / name)
    return tmp_path / name

  with pytest.raises(errors.DataError, match="8100"):
    write("high")
  with pytest.raises(errors.ConfigError, match="different vocabularies"):
    write("two_vocabularies")
  with pytest.raises(errors.DataError, match="train split of none is empty"):
    _reader(write("none"))
  with pytest.raises(errors.DataError, match="no such split"):
    _reader(tmp_path / "none", "validation")
