# SPDX-License-Identifier: Apache-2.0
"""The same tokens as Hugging Face's `generate`, greedy and with beams, from its own checkpoints."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from their_models import MODELS, make_theirs

import switch_t5
from switch_t5.data.vocabulary import Vocabulary, embedded_vocabulary_path
from switch_t5.decoding import DecodingConfig

pytestmark = pytest.mark.interop

VOCABULARY = Vocabulary(embedded_vocabulary_path())
TOKENS = 12
TEXTS = [
  "Returns the shape of an array.",
  "A short one",
  "Raises an error if <extra_id_0> is not a whole number, or <extra_id_1> of another type than "
  "the function takes; the text of the error says which value it was.",
  "",
]
CHOSEN = (
  "T5 1.0",
  "T5 1.1",
  "Switch, 8 experts in every layer",
  "Switch, 4 experts, untied",
)
SEARCHES = {
  "greedy": {},
  "4 beams": {"num_beams": 4, "length_penalty": 1.0},
  "4 beams, short answers": {"num_beams": 4, "length_penalty": -1.0},
  "4 beams, long answers": {"num_beams": 4, "length_penalty": 2.0},
}


@pytest.fixture(scope="module", params=CHOSEN)
def both(request, tmp_path_factory):
  """Their model and ours, loaded from the folder that they saved."""
  config = dataclasses.replace(MODELS[request.param], vocab_size=VOCABULARY.size)
  theirs = make_theirs(config)
  with torch.no_grad():
    # Answers of random models never end by themselves: EOS is made likelier.
    head = theirs.shared if config.logits_via_embedding else theirs.lm_head
    head.weight[VOCABULARY.eos_id] *= 3
  folder = tmp_path_factory.mktemp("theirs")
  theirs.save_pretrained(folder)
  ours = switch_t5.load(folder, vocabulary_path=VOCABULARY.path, batch_size=4)
  return theirs, ours


def their_answers(model, **options) -> tuple[list[list[int]], np.ndarray | None]:
  ids = [[*VOCABULARY.encode(text), VOCABULARY.eos_id] for text in TEXTS]
  longest = max(map(len, ids))
  inputs = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
  found = model.generate(
    inputs,
    attention_mask=(inputs != 0).long(),
    max_new_tokens=TOKENS,
    do_sample=False,
    return_dict_in_generate=True,
    output_scores=True,
    **{"decoder_start_token_id": 0, "eos_token_id": VOCABULARY.eos_id, "pad_token_id": 0},
    **options,
  )
  answers = []
  for row in found.sequences[:, 1:].tolist():
    answers.append(row[: row.index(VOCABULARY.eos_id)] if VOCABULARY.eos_id in row else row)
  return answers, getattr(found, "sequences_scores", None)


def trimmed(ids: list[int]) -> list[int]:
  """Without the padding at the end, which they show and we do not."""
  return np.trim_zeros(np.array(ids, int), "b").tolist()


@pytest.mark.parametrize("name", SEARCHES)
def test_our_answers_are_theirs(both, name):
  theirs, ours = both
  wanted, scores = their_answers(theirs, **SEARCHES[name])
  decoding = DecodingConfig(max_tokens=TOKENS, beam_scores="huggingface", **SEARCHES[name])
  found = [best for best, *_ in ours.answers(TEXTS, decoding)]
  assert [trimmed(answer.ids) for answer in found] == [trimmed(ids) for ids in wanted]
  if scores is not None:
    np.testing.assert_allclose([a.score for a in found], scores.numpy(), rtol=1e-4)
