# SPDX-License-Identifier: Apache-2.0
"""The seqio tasks, held against the NumPy reader's invariants."""

from __future__ import annotations

import c4_form
import numpy as np
import pytest

from switch_t5 import errors
from switch_t5.data import documents, span_corruption, token_stream

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own

LENGTHS = {"inputs": 128, "targets": 29}
WINDOW = 141
TASK = "text_span_corruption"
C4_TASKS = ("c4_v220_span_corruption", "c4_v310_span_corruption", "mc4.de")


@pytest.fixture(scope="module")
def seqio(fixture_text, tfds_data_dir):
  import seqio

  from switch_t5.data import seqio_tasks

  for _ in range(2):  # registering again replaces the tasks
    seqio_tasks.register_tasks(str(fixture_text), tfds_data_dir=str(tfds_data_dir))
  return seqio


def _examples(seqio, split="train", lengths=LENGTHS, task=TASK, **arguments):
  arguments = {"shuffle": False, "seed": 3} | arguments
  dataset = seqio.get_mixture_or_task(task).get_dataset(
    sequence_length=lengths, split=split, **arguments
  )
  return list(dataset.as_numpy_iterator())


def test_the_tasks_are_registered_with_t5_features(seqio):
  for name in (TASK, "embedded_span_corruption", *C4_TASKS, "mc4.bg_Latn"):
    task = seqio.get_mixture_or_task(name)
    assert set(task.output_features) == {"inputs", "targets"}
    assert task.output_features["targets"].vocabulary.vocab_size == 8100
    assert set(task.splits) == set(documents.SPLITS)
    assert any(isinstance(p, seqio.CacheDatasetPlaceholder) for p in task.preprocessors)


def test_full_windows_give_the_lengths_of_the_numpy_reader(seqio):
  *full, last = _examples(seqio)
  assert all(len(e["inputs"]) == 128 and len(e["targets"]) == 29 for e in full)
  assert len(last["inputs"]) <= 128 and len(last["targets"]) <= 29
  example = _examples(seqio, lengths={"inputs": 512, "targets": 114})[0]
  assert (example["inputs"].shape, example["targets"].shape) == ((512,), (114,))


def test_spans_put_back_give_the_documents_in_order(seqio, fixture_task):
  vocab = fixture_task.vocabulary()
  texts = fixture_task.source.documents()["train"]
  tokens = [i for ids in vocab.encode_batch(texts) for i in ids]
  restored = []
  for example in _examples(seqio):
    inputs, targets = example["inputs"].tolist(), example["targets"].tolist()
    assert inputs[-1] == targets[-1] == vocab.eos_id
    sentinels = [t for t in inputs if t >= 8000]
    assert (
      sentinels == [t for t in targets if t >= 8000] == list(range(8099, min(sentinels) - 1, -1))
    )
    for token in inputs[:-1]:
      if token >= 8000:
        start = targets.index(token) + 1
        end = targets.index(token - 1) if token - 1 in targets else len(targets) - 1
        restored += targets[start:end]
      else:
        restored.append(token)
  assert restored == tokens


@pytest.mark.parametrize("task", C4_TASKS)
def test_the_text_of_c4_is_what_is_corrupted(seqio, task):
  split = "de" if task == "mc4.de" else "train"
  vocab = seqio.get_mixture_or_task(task).output_features["inputs"].vocabulary
  examples = _examples(seqio, task=task)
  tokens = np.concatenate([np.concatenate([e["inputs"], e["targets"]]) for e in examples])
  expected = np.concatenate([vocab.encode(text) for text in c4_form.documents(split, 60)])
  np.testing.assert_array_equal(np.sort(tokens[(tokens > 1) & (tokens < 8000)]), np.sort(expected))


def test_spans_are_those_of_the_numpy_reader_given_its_random_words(seqio):
  from switch_t5.data import seqio_tasks

  random = np.random.default_rng(0)
  for length in [*range(2, 40), 126, 141, 568, 1137, 2274]:
    tokens = random.integers(2, 8000, length).astype(np.int32)
    words = random.integers(0, 2**63, (1, length - 2))
    (expected,) = span_corruption.noise_masks(words.astype(np.uint64), length)
    noise = seqio_tasks.noise_mask(words[0])
    np.testing.assert_array_equal(noise, expected)
    for replaced in (expected, ~expected):
      corrupted = seqio_tasks.replace_spans(tokens, replaced, top_id=8099)
      (whole,) = span_corruption._replace_spans(tokens[None], replaced[None], top_id=8099, eos_id=1)
      np.testing.assert_array_equal(corrupted, whole[:-1])


def test_the_mixture_has_all_languages_at_mt5s_rates(seqio):
  mixture = seqio.get_mixture_or_task("mc4")
  assert len(mixture.tasks) == 107
  (german,) = (task for task in mixture.tasks if task.name == "mc4.de")
  assert mixture.get_rate(german) == pytest.approx(60**0.3)


def test_the_cache_holds_the_same_tokens_in_another_order(seqio, fixture_cache):
  examples = _examples(seqio)
  tokens = np.concatenate([np.concatenate([e["inputs"], e["targets"]]) for e in examples])
  stream = token_stream.TokenStream(fixture_cache, "train")
  cached = stream.read(0, stream.tokens)
  np.testing.assert_array_equal(np.sort(tokens[(tokens > 1) & (tokens < 8000)]), np.sort(cached))


def test_a_seed_makes_the_examples_repeatable(seqio):
  first, again, other = (_examples(seqio, shuffle=True, seed=seed) for seed in (3, 3, 4))
  same = [np.array_equal(a["inputs"], b["inputs"]) for a, b in zip(first, again, strict=True)]
  assert all(same)
  assert not all(
    np.array_equal(a["inputs"], b["inputs"]) for a, b in zip(first, other, strict=True)
  )


def test_both_vocabularies_give_the_same_ids(seqio, fixture_task):
  text = "Thank you <extra_id_0> me to your party <extra_id_1> week, naïve 日本."
  theirs = seqio.get_mixture_or_task(TASK).output_features["inputs"].vocabulary
  assert fixture_task.vocabulary().encode(text) == list(theirs.encode(text))


def test_a_missing_vocabulary_is_our_error(seqio, tmp_path):
  from switch_t5.data import seqio_tasks

  with pytest.raises(errors.DataError, match=r"gone\.model"):
    seqio_tasks.register_tasks(vocabulary_path=str(tmp_path / "gone.model"))
