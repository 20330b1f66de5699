# SPDX-License-Identifier: Apache-2.0
"""Greedy search, sampling and beam search, against exhaustive search over a table of probabilities."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from switch_t5.decoding import DecodingConfig
from switch_t5.decoding.beam_search import beam_search
from switch_t5.decoding.sampling import sample
from switch_t5.decoding.step import Limits

IDS, EOS, LENGTH, ROWS = 4, 1, 4, 6
TABLE = np.random.default_rng(3).normal(0, 1.5, (ROWS, LENGTH, 64, 6)).astype(np.float32)


def context(tokens: np.ndarray | jax.Array):
  """A number that the tokens so far hash to: a model that remembers all of them."""
  code = jnp.zeros(tokens.shape[:-1], jnp.int32)
  for time in range(tokens.shape[-1]):
    code = (5 * code + tokens[..., time] + 1) % 64
  return code


def table_model(tokens, time, ancestors, running, cache):
  """Logits from TABLE by row, time and all inputs so far, which it keeps as a model's cache does."""
  cache = jax.lax.dynamic_update_slice_in_dim(cache, tokens[:, None], time, axis=1)  # [B, T, K]
  past = jnp.take_along_axis(cache, ancestors.swapaxes(1, 2), axis=2).swapaxes(1, 2)
  past = jnp.where((jnp.arange(LENGTH) <= time)[None, None], past, -1)
  table = jnp.asarray(TABLE)[: tokens.shape[0]]
  of_time = jnp.take(table, time, axis=1)  # [B, 64, V]
  return jnp.take_along_axis(of_time, context(past)[..., None], axis=1), cache


def empty_cache(hypotheses):
  return jnp.full((ROWS, LENGTH, hypotheses), -1, jnp.int32)


def log_prob(row: int, answer: tuple[int, ...]) -> float:
  """The sum of an answer's log-probabilities, token by token in NumPy."""
  total, inputs = 0.0, []
  for time, token in enumerate(answer):
    inputs.append(answer[time - 1] if time else 0)
    past = np.array(inputs + [-1] * (LENGTH - time - 1))
    logits = TABLE[row, time, int(context(past))][:IDS].astype(np.float64)
    total += logits[token] - np.log(np.exp(logits).sum())
  return total


def answers() -> list[tuple[int, ...]]:
  """All of at most LENGTH tokens, ended by EOS or by the length."""
  found = []
  for n in range(1, LENGTH + 1):
    for tokens in itertools.product(range(IDS), repeat=n):
      ended = EOS not in tokens[:-1] and (tokens[-1] == EOS or n == LENGTH)
      found += [tokens] if ended else []
  return found


def penalty(config: DecodingConfig, n: int) -> float:
  return (n if config.beam_scores == "huggingface" else (5 + n) / 6) ** config.length_penalty


def limits(max_tokens=LENGTH, real=(True,) * ROWS):
  return Limits(jnp.asarray(real), jnp.asarray(max_tokens, jnp.int32), LENGTH, IDS, EOS)


def search(config: DecodingConfig, **options):
  run = jax.jit(
    lambda: beam_search(table_model, empty_cache(config.num_beams), config, limits(**options))
  )
  return jax.device_get(run())


def draw(config: DecodingConfig, **options):
  keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(config.seed), i))(jnp.arange(ROWS))
  run = jax.jit(
    lambda: sample(table_model, empty_cache(config.num_return), config, limits(**options), keys)
  )
  return jax.device_get(run())


def trimmed(tokens: np.ndarray) -> tuple[int, ...]:
  """The tokens up to EOS."""
  ends = np.flatnonzero(tokens == EOS)
  return tuple(tokens[: ends[0] + 1].tolist() if ends.size else tokens.tolist())


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_beam_search_with_all_hypotheses_is_exhaustive_search(alpha):
  config = DecodingConfig(num_beams=81, num_return=5, length_penalty=alpha)
  found = search(config)
  for row in range(ROWS):
    scored = sorted(
      ((log_prob(row, a) / penalty(config, len(a)), a) for a in answers()), reverse=True
    )
    for place, (score, answer) in enumerate(scored[:5]):
      assert trimmed(found.tokens[row, place]) == answer
      assert found.scores[row, place] == pytest.approx(score, rel=1e-5)


@pytest.mark.parametrize("beam_scores", ["t5x", "huggingface"])
def test_a_beam_of_two_is_the_textbook_search(beam_scores):
  config = DecodingConfig(num_beams=2, beam_scores=beam_scores)
  found = search(config)
  for row in range(ROWS):
    assert trimmed(found.tokens[row, 0]) == textbook(config, row)


def textbook(config: DecodingConfig, row: int) -> tuple[int, ...]:
  """Beam search over lists."""
  beams, finished = [((), 0.0)], []
  for time in range(LENGTH):
    ways = [((*b, i), log_prob(row, (*b, i))) for b, _ in beams for i in range(IDS)]
    ways = sorted(ways, key=lambda way: -way[1])[: 2 * config.num_beams]
    is_last = time + 1 == LENGTH
    ended = [w for w in ways[: config.num_beams] if is_last or w[0][-1] == EOS]
    finished += [(s / penalty(config, time + 1), b) for b, s in ended]
    finished = sorted(finished, reverse=True)[: config.num_beams]
    beams = [w for w in ways if not (is_last or w[0][-1] == EOS)][: config.num_beams]
    if not beams:
      break
    longest = LENGTH if config.beam_scores == "t5x" else time + 1
    full = len(finished) == config.num_beams
    if full and beams[0][1] / penalty(config, longest) <= finished[-1][0]:
      break
  return finished[0][1]


def test_greedy_takes_the_likeliest_token_each_time_and_sums_their_log_probabilities():
  found = draw(DecodingConfig())
  for row in range(ROWS):
    answer = ()
    while len(answer) < LENGTH and EOS not in answer:
      answer += (max(range(IDS), key=lambda i: log_prob(row, (*answer, i))),)
    assert trimmed(found.tokens[row, 0]) == answer
    assert found.scores[row, 0] == pytest.approx(log_prob(row, answer), rel=1e-5)
    assert not found.tokens[row, 0, len(answer) :].any()


def test_beam_search_of_one_beam_is_greedy_search():
  greedy = draw(DecodingConfig())
  one = search(DecodingConfig(length_penalty=0.0, num_beams=1))
  np.testing.assert_array_equal(one.tokens, greedy.tokens)
  np.testing.assert_allclose(one.scores, greedy.scores, rtol=1e-6)


def test_ids_beyond_the_vocabulary_are_never_chosen():
  for config in (DecodingConfig(), DecodingConfig(temperature=5.0, num_return=8)):
    assert draw(config).tokens.max() < IDS
  assert search(DecodingConfig(num_beams=4)).tokens.max() < IDS


def test_samples_follow_the_probabilities_and_the_seed():
  config = DecodingConfig(temperature=1.0, num_return=3000, max_tokens=1)
  firsts = draw(config, max_tokens=1).tokens[..., 0]
  logits = TABLE[:, 0, int(context(np.array([0, -1, -1, -1])))][:, :IDS]
  probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
  counts = np.stack([(firsts == i).mean(axis=1) for i in range(IDS)], axis=1)
  np.testing.assert_allclose(counts, probs, atol=0.035)
  few = DecodingConfig(temperature=1.0, num_return=4, seed=7)
  np.testing.assert_array_equal(draw(few).tokens, draw(few).tokens)
  other = DecodingConfig(temperature=1.0, num_return=4, seed=8)
  assert (draw(few).tokens != draw(other).tokens).any()


@pytest.mark.parametrize(
  ("options", "kept"), [({"top_k": 2}, 2), ({"top_p": 0.05}, 1), ({"top_k": 3, "top_p": 0.05}, 1)]
)
def test_top_k_and_top_p_leave_only_the_likeliest(options, kept):
  config = DecodingConfig(temperature=2.0, num_return=400, **options)
  firsts = draw(config, max_tokens=1).tokens[..., 0]
  logits = TABLE[:, 0, int(context(np.array([0, -1, -1, -1])))][:, :IDS]
  for row in range(ROWS):
    assert set(firsts[row]) == set(np.argsort(-logits[row])[:kept])


def test_rows_of_padding_and_a_lower_limit_are_heeded():
  real = [True, False] * 3
  found = draw(DecodingConfig(), max_tokens=2, real=real)
  assert not found.tokens[1::2].any() and not found.tokens[:, :, 2:].any()
  beams = search(DecodingConfig(num_beams=3), max_tokens=2, real=real)
  assert not beams.tokens[1::2].any() and not beams.tokens[:, :, 2:].any()
  assert (beams.scores[::2] > -100).all()
