# SPDX-License-Identifier: Apache-2.0
"""Mixtures: their definition, and that a mixture's rows are a function of (seed, row) too."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import reading

from switch_t5 import errors
from switch_t5.data import cache, indexed, tasks, vocabulary

LENGTHS = {"inputs": 64, "targets": 14}
RATES = (0.7, 0.3)


@dataclasses.dataclass(frozen=True)
class Made:
  """Documents that are given, for both splits."""

  texts: tuple[str, ...]

  def documents(self, budget=None):
    return {"train": list(self.texts), "validation": list(self.texts[:3])}

  def provenance(self):
    return {"texts": "made"}


@pytest.fixture(scope="module")
def number_cache(tmp_path_factory):
  """A second cache: numbers, so that its rows have digits."""
  texts = tuple(" ".join(str(n) for n in range(k, k + 40)) for k in range(100, 900, 40))
  task = tasks.SpanCorruptionTask("numbers", Made(texts), vocabulary.embedded_vocabulary_path())
  directory = tmp_path_factory.mktemp("numbers") / "cache"
  cache.write_cache(task, directory)
  return directory


@pytest.fixture(scope="module")
def components(fixture_cache, number_cache):
  return [
    indexed.Component(directory, rate)
    for directory, rate in zip((fixture_cache, number_cache), RATES, strict=True)
  ]


def _reader(caches, split="train", **arguments):
  arguments = {"feature_lengths": LENGTHS, "batch_size": 4, "seed": 5} | arguments
  return indexed.IndexedReader(caches, split, **arguments)


def _are_numbers(rows) -> np.ndarray:
  """Returns which rows are of the second component: those of digits and sentinels."""
  vocab = vocabulary.Vocabulary(vocabulary.embedded_vocabulary_path())
  return np.array(
    [
      not any(character.isalpha() for character in vocab.decode(i for i in row if i < 8000))
      for row in rows["encoder_input_tokens"].tolist()
    ]
  )


def test_each_component_has_its_share_of_the_rows(components):
  numbers = np.cumsum(_are_numbers(reading.take(_reader(components), 50)))
  assert np.abs(numbers - 0.3 * np.arange(1, 201)).max() <= 1


def test_a_mixture_of_one_is_the_task_alone(fixture_cache):
  reading.assert_equal(
    reading.take(_reader([indexed.Component(fixture_cache, 7.0)]), 20),
    reading.take(_reader(fixture_cache), 20),
  )


def test_every_epoch_of_a_component_holds_all_its_windows(components, number_cache):
  rows = reading.take(_reader(components), 200)
  n = _reader(number_cache).num_rows
  own = rows["encoder_input_tokens"][_are_numbers(rows)]
  # Corrupted otherwise each time, a window is known by its tokens, sorted.
  both = np.concatenate([own, rows["decoder_target_tokens"][_are_numbers(rows)]], axis=1)
  windows = [tuple(np.sort(row[(row > 1) & (row < 8000)]).tolist()) for row in both]
  assert len(windows) > 2 * n
  assert sorted(windows[:n]) == sorted(windows[n : 2 * n]) and windows[:n] != windows[n : 2 * n]


@pytest.mark.parametrize("row", [0, 1, 7, 61])
def test_a_mixture_goes_on_at_any_row_with_any_batch_size(components, row):
  expected = reading.take(_reader(components, batch_size=1), row + 30)
  reader = _reader(components, batch_size=6)
  next(reader)
  reader.restore({"rows_consumed": row})
  reading.assert_equal(reading.take(reader, 5), {name: a[row:] for name, a in expected.items()})
  assert reader.state() == {"rows_consumed": row + 30}


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_together_see_the_mixture_that_one_sees(components, processes):
  alone = reading.take(_reader(components, batch_size=8), 10)
  places = np.random.default_rng(0).permutation(8).reshape(processes, -1)
  seen = {name: np.zeros_like(array) for name, array in alone.items()}
  for own in places:
    rows = reading.take(_reader(components, batch_size=8, rows=own), 10)
    for name, array in rows.items():
      seen[name].reshape(10, 8, -1)[:, own] = array.reshape(10, len(own), -1)
  reading.assert_equal(seen, alone)


def test_validation_is_one_pass_over_the_components_in_turn(
  components, fixture_cache, number_cache
):
  given = {"shuffle": False, "num_epochs": 1, "batch_size": 1}
  rows = reading.take(_reader(components, "validation", **given), 1000)
  first = reading.take(_reader(fixture_cache, "validation", **given), 1000)
  n = len(first["encoder_input_tokens"])
  reading.assert_equal({name: a[:n] for name, a in rows.items()}, first)
  assert _are_numbers(rows).tolist() == [False] * n + [True] * (len(_are_numbers(rows)) - n)
  assert len(_are_numbers(rows)) == n + _reader(number_cache, "validation").num_rows


def test_a_component_smaller_than_a_window_is_named(components):
  with pytest.raises(errors.DataError, match="smaller than one row") as raised:
    _reader(components, "validation", feature_lengths={"inputs": 512, "targets": 114})
  assert "text_span_corruption" in raised.value.what


def _target_counts(directory, split) -> tuple[np.ndarray, int]:
  """Returns how often each id stands in a split's targets, and in how many rows."""
  given = {"shuffle": False, "num_epochs": 1, "batch_size": 1, "seed": 0}
  targets = reading.take(_reader(directory, split, **given), 1000)["decoder_target_tokens"]
  return np.bincount(targets[targets > 0], minlength=8100), len(targets)


def test_the_unigram_entropy_of_a_mixture_has_frequencies_by_rate(
  components, fixture_cache, number_cache
):
  directories = (fixture_cache, number_cache)
  train = [_target_counts(directory, "train") for directory in directories]
  per_row = sum(rate * counts / n for rate, (counts, n) in zip(RATES, train, strict=True))
  frequencies = per_row * sum(n for _, n in train) + 1
  held_out = sum(_target_counts(directory, "validation")[0] for directory in directories)
  expected = -(held_out * np.log(frequencies / frequencies.sum())).sum() / held_out.sum()
  entropy = indexed.unigram_entropy(components, feature_lengths=LENGTHS)
  assert entropy == pytest.approx(expected)


@pytest.fixture
def own_tasks(monkeypatch, fixture_task):
  """A registry with two small tasks, and room for mixtures of them."""
  monkeypatch.setattr(tasks, "_added", {})
  monkeypatch.setattr(tasks, "_mixtures", dict(tasks._mixtures))
  made = tasks.SpanCorruptionTask("numbers", Made(("1 2 3",)), fixture_task.vocabulary_path)
  tasks.add_task(made)
  return made


def _components(name, **arguments):
  return tasks.get_components(name, feature_lengths=LENGTHS, **arguments)


def test_a_mixture_is_found_by_name_and_gives_text_files_to_the_task_that_reads_them(
  own_tasks, fixture_text
):
  tasks.add_mixture(tasks.Mixture("both", ("numbers", "text_span_corruption"), (1.0, 2.0)))
  first, second = _components("both", text_files=str(fixture_text))
  assert first == own_tasks and second.name == "text_span_corruption"
  with pytest.raises(errors.ConfigError, match="TEXT_FILES"):
    _components("both")
  with pytest.raises(errors.ConfigError, match="Did you mean both"):
    _components("bothe")
  for taken in ("both", "numbers", "mc4"):
    with pytest.raises(errors.ConfigError, match="taken"):
      tasks.add_mixture(tasks.Mixture(taken, ("numbers",)))


def test_a_task_is_a_mixture_of_itself():
  assert tasks.get_mixture("any").tasks == ("any",)


def test_rates_follow_from_documents_where_none_are_given():
  assert tasks.Mixture("m", ("a", "b")).rates_for([60, 40]) == (60, 40)
  assert tasks.Mixture("m", ("a", "b"), exponent=0.5).rates_for([9, 4]) == (3, 2)
  assert tasks.Mixture("m", ("a", "b"), rates=(2, 1)).rates_for([9, 4]) == (2, 1)
  mc4 = tasks.get_mixture("mc4")
  assert len(mc4.tasks) == 107 and mc4.rates_for([60] * 107)[0] == pytest.approx(60**0.3)


@pytest.mark.parametrize(
  ("given", "match"),
  [
    ({"tasks": ()}, "no task"),
    ({"tasks": ("a", "a")}, "named once"),
    ({"tasks": ("a", "b"), "rates": (1.0,)}, "1 rates, 2 tasks"),
    ({"tasks": ("a", "b"), "rates": (0.0, 0.0)}, "a rate of 0 for each"),
    ({"tasks": ("a", "b"), "rates": (-1.0, 1.0)}, "a: -1.0"),
    ({"tasks": ("a",), "rates": (math.nan,)}, "finite, and not negative"),
    ({"tasks": ("a",), "rates": (math.inf,)}, "finite, and not negative"),
    ({"tasks": ("a",), "exponent": math.nan}, "exponent nan"),
  ],
)
def test_mixtures_that_make_no_sense_are_refused(given, match):
  with pytest.raises(errors.ConfigError, match=match):
    tasks.Mixture("mine", **given)


def test_unknown_components_are_refused_before_anything_is_written(own_tasks):
  tasks.add_mixture(tasks.Mixture("both", ("numbers", "nmubers")))
  with pytest.raises(errors.ConfigError, match="Did you mean numbers"):
    _components("both")


def test_components_with_other_vocabularies_are_both_named(own_tasks):
  tasks.add_task(dataclasses.replace(own_tasks, name="other", extra_ids=10))
  tasks.add_mixture(tasks.Mixture("both", ("numbers", "other")))
  with pytest.raises(errors.DataError, match=r"numbers: (.|\n)*other: "):
    _components("both")
