# SPDX-License-Identifier: Apache-2.0
"""Answers, scores and logits of texts: in order, whatever is beside them, on any mesh."""

from __future__ import annotations

import numpy as np
import pytest
from parameters import random_params

from switch_t5.data.vocabulary import Vocabulary, embedded_vocabulary_path
from switch_t5.decoding import DecodingConfig
from switch_t5.errors import ConfigError, DataError, MeshError
from switch_t5.inference.programs import bucket
from switch_t5.inference.text_model import TextModel
from switch_t5.model.config import ModelConfig
from switch_t5.model.definition import define_model
from switch_t5.sharding.mesh import MeshShape, make_mesh

VOCABULARY = Vocabulary(embedded_vocabulary_path())
CONFIG = ModelConfig(
  vocab_size=VOCABULARY.size,
  d_model=16,
  d_ff=32,
  d_kv=4,
  num_heads=4,
  num_encoder_layers=1,
  num_decoder_layers=2,
  num_experts=8,
  num_encoder_sparse_layers=1,
  num_decoder_sparse_layers=1,
  sequences_per_group=1,
  activation_dtype="float32",
)
SHORT = ["an array", "the number of <extra_id_0> in it", "", "a list", "returns what it is given"]
LONG = ["this one is longer than sixteen ids, so that it is of another bucket than the others are"]
GREEDY = DecodingConfig(max_tokens=6)
BEAMS = DecodingConfig(max_tokens=6, num_beams=3, num_return=2)
SAMPLES = DecodingConfig(max_tokens=6, temperature=1.0, top_k=50, num_return=2)
DECODINGS = {"greedy": GREEDY, "beams": BEAMS}


def make_model(mesh_shape=(1, 1, 1), batch_size=4) -> TextModel:
  definition = define_model(CONFIG)
  mesh = make_mesh(MeshShape(*mesh_shape))
  return TextModel(definition, random_params(definition), VOCABULARY, mesh, batch_size=batch_size)


@pytest.fixture(scope="module")
def model() -> TextModel:
  return make_model()


@pytest.mark.parametrize("name", ["greedy", "beams"])
def test_an_answer_depends_on_its_text_alone(model, name):
  decoding = DECODINGS[name]
  texts = SHORT + LONG if name == "greedy" else SHORT  # two buckets are compiled for one of them
  together = model.answers(texts, decoding)
  assert model.answers(texts[::-1], decoding)[::-1] == together  # the scores to the last bit
  assert [model.answers([text], decoding)[0] for text in texts] == together
  assert_well_formed(together, decoding)


def test_samples_follow_from_the_text_its_number_and_the_seed(model):
  together = model.answers(SHORT, SAMPLES)
  assert_well_formed(together, SAMPLES)
  assert model.answers(SHORT, SAMPLES) == together
  part = model.search(model.encode(SHORT[2:4]), SAMPLES, first_number=2)
  assert [[a.ids for a in of] for of in part] == [[a.ids for a in of] for of in together[2:4]]
  assert model.answers(SHORT, SAMPLES, seed=1) != together


def assert_well_formed(found, decoding):
  for answers in found:
    assert len(answers) == decoding.num_return
    assert [a.score for a in answers] == sorted((a.score for a in answers), reverse=True)
    assert all(a.text == VOCABULARY.decode(a.ids) and len(a.ids) <= 6 for a in answers)


def test_a_known_bucket_is_not_compiled_again(model):
  program = model._programs._decode(
    DecodingConfig(max_tokens=bucket(6))  # what the limit and the seed are rounded to
  )
  model.generate(SHORT, GREEDY)
  compiled = program._cache_size()
  for max_tokens in (1, 5, 16):
    model.generate([*SHORT, "another text"], max_tokens=max_tokens)
  assert program._cache_size() == compiled
  model.generate(LONG, GREEDY)
  model.generate(LONG * 2, GREEDY)
  assert program._cache_size() <= compiled + 1


@pytest.mark.parametrize("mesh_shape", [(2, 2, 2)])
def test_eight_devices_answer_as_one_does(model, mesh_shape):
  many = make_model(mesh_shape)
  for decoding in (GREEDY, BEAMS):
    one = [best for best, *_ in model.answers(SHORT, decoding)]
    eight = [best for best, *_ in many.answers(SHORT, decoding)]
    assert [a.ids for a in eight] == [a.ids for a in one]
    np.testing.assert_allclose([a.score for a in eight], [a.score for a in one], rtol=1e-4)
  targets = ["an answer", "two", "", "three words here", "no"]
  np.testing.assert_allclose(
    many.score(SHORT, targets), model.score(SHORT, targets), rtol=1e-4, atol=1e-4
  )


def test_scores_are_sums_of_the_logits_log_softmax_and_those_of_what_was_generated(model):
  targets = ["an answer", "two", "", "three words here", "no"]
  scores, logits = model.score(SHORT, targets), model.logits(SHORT, targets)
  for target, score, of_target in zip(targets, scores, logits, strict=True):
    ids = [*VOCABULARY.encode(target), VOCABULARY.eos_id]
    assert of_target.shape == (len(ids), VOCABULARY.size)
    log_probs = of_target - np.log(np.exp(of_target).sum(axis=-1, keepdims=True))
    assert score == pytest.approx(log_probs[range(len(ids)), ids].sum(), rel=1e-4)
  ids = model.encode(SHORT)
  # None of these answers ends by itself, so none has an EOS to be scored.
  found = model.generate_ids(ids, GREEDY)
  assert all(len(answer.ids) == 6 for answer in found)
  forced = model.score_ids(ids, [answer.ids for answer in found])
  np.testing.assert_allclose(forced, [answer.score for answer in found], rtol=1e-4)


def test_no_text_is_no_answer_and_unequal_numbers_are_refused(model):
  assert model.generate([]) == [] and model.score([], []) == []
  with pytest.raises(DataError, match="2 inputs, 1 targets"):
    model.score(["a", "b"], ["c"])
  with pytest.raises(TypeError, match="a list of texts"):
    model.generate("one text")


def test_a_vocabulary_and_a_batch_that_do_not_fit_are_refused():
  definition = define_model(CONFIG)
  small = define_model(ModelConfig(**{**CONFIG.__dict__, "vocab_size": 128}))
  mesh = make_mesh(MeshShape())
  with pytest.raises(DataError, match="larger than the model's"):
    TextModel(small, {}, VOCABULARY, mesh)
  with pytest.raises(MeshError, match="a batch size of 4"):
    TextModel(definition, {}, VOCABULARY, make_mesh(MeshShape(2, 2, 2)), batch_size=3)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"max_tokens": 0}, "max_tokens is a whole number, at least 1"),
    ({"top_k": 3}, "used with a temperature above 0"),
    ({"temperature": 1.0, "num_beams": 2}, "there is beam search or sampling"),
    ({"num_return": 2}, r"at most num_beams \(1\)"),
    ({"top_p": 0.0, "temperature": 1.0}, "a number above 0, at most 1"),
    ({"length_penalty": float("nan")}, "a finite number"),
    ({"beam_scores": "hf"}, "'t5x', 'huggingface'"),
  ],
)
def test_what_contradicts_itself_is_refused(options, message):
  with pytest.raises(ConfigError, match=message):
    DecodingConfig(**options)


def test_buckets_are_powers_of_two():
  assert [bucket(n) for n in (0, 1, 16, 17, 33, 512, 513)] == [16, 16, 16, 32, 64, 512, 1024]


def test_a_text_that_no_memory_holds_is_refused_with_its_size(model):
  with pytest.raises(ConfigError, match="does not fit the memory") as caught:
    model.score_ids([[5] * 1_000_000], [[5]])
  assert caught.value.value == "4 rows of 1,048,576 and 16 tokens"
