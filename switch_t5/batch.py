# SPDX-License-Identifier: Apache-2.0
"""The batch: the contract between data and model.

B sequences (rows) of encoder length S and decoder length T. A row may hold several packed examples;
its segment ids number them 1, 2, ... from left to right and are 0 on padding. Segments are
contiguous, so relative positions inside a segment follow from the column alone and no position
feature is needed. What is padding is said by the segment ids, never by a token's id: the first
decoder input of every example is the id 0.
"""

from __future__ import annotations

import jax
import numpy as np

ENCODER_INPUT_TOKENS = "encoder_input_tokens"  # int32 [B, S]
ENCODER_SEGMENT_IDS = "encoder_segment_ids"  # int32 [B, S]
DECODER_INPUT_TOKENS = (
  "decoder_input_tokens"  # int32 [B, T], targets shifted right within a segment
)
DECODER_TARGET_TOKENS = "decoder_target_tokens"  # int32 [B, T]
DECODER_SEGMENT_IDS = "decoder_segment_ids"  # int32 [B, T]
DECODER_LOSS_WEIGHTS = "decoder_loss_weights"  # float32 [B, T], 0 on padding

ENCODER_FEATURES = (ENCODER_INPUT_TOKENS, ENCODER_SEGMENT_IDS)
DECODER_FEATURES = (
  DECODER_INPUT_TOKENS,
  DECODER_TARGET_TOKENS,
  DECODER_SEGMENT_IDS,
  DECODER_LOSS_WEIGHTS,
)
FEATURES = ENCODER_FEATURES + DECODER_FEATURES
# Of a student's batch, beside those: the teacher's k greatest probabilities for each target token.
TEACHER_IDS = "teacher_ids"  # int32 [B, T, k]
TEACHER_PROBS = "teacher_probs"  # float32 [B, T, k], 0 on padding
TEACHER_FEATURES = (TEACHER_IDS, TEACHER_PROBS)


def feature_dtype(name: str) -> np.dtype:
  """Returns the dtype of a feature."""
  floats = (DECODER_LOSS_WEIGHTS, TEACHER_PROBS)
  return np.dtype(np.float32 if name in floats else np.int32)


def batch_spec(
  leading: tuple[int, ...], encoder_length: int, decoder_length: int, teacher_k: int = 0
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shape and dtype of every feature.

  Args:
    leading: the axes before the length: `(B,)`, or `(microbatches, B / microbatches)`.
    encoder_length: S.
    decoder_length: T.
    teacher_k: k, if the batch has a teacher's probabilities.
  """
  lengths = dict.fromkeys(ENCODER_FEATURES, encoder_length) | dict.fromkeys(
    DECODER_FEATURES, decoder_length
  )
  shapes = {name: (*leading, length) for name, length in lengths.items()}
  if teacher_k:
    shapes |= dict.fromkeys(TEACHER_FEATURES, (*leading, decoder_length, teacher_k))
  return {name: jax.ShapeDtypeStruct(shape, feature_dtype(name)) for name, shape in shapes.items()}


def shift_right(targets: np.ndarray, segment_ids: np.ndarray) -> np.ndarray:
  """Returns decoder inputs: targets one to the right, 0 at the start of each segment.

  Args:
    targets: int32 [..., T].
    segment_ids: int32 [..., T].
  """
  shifted = np.zeros_like(targets)
  same = segment_ids[..., 1:] == segment_ids[..., :-1]
  shifted[..., 1:] = np.where(same, targets[..., :-1], 0)
  return shifted
