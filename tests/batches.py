# SPDX-License-Identifier: Apache-2.0
"""Batches of `switch_t5.batch` from tokens and segment ids."""

from __future__ import annotations

import numpy as np

from switch_t5.batch import shift_right
from switch_t5.types import HostBatch


def teacher_forced(
  encoder: tuple[np.ndarray, np.ndarray],
  decoder: tuple[np.ndarray, np.ndarray],
  weights: np.ndarray,
) -> HostBatch:
  """Returns a batch.

  Args:
    encoder: input tokens and segment ids, int32 [B, S].
    decoder: target tokens and segment ids, int32 [B, T].
    weights: of the targets, [B, T].
  """
  (inputs, encoder_ids), (targets, decoder_ids) = encoder, decoder
  return {
    "encoder_input_tokens": inputs,
    "encoder_segment_ids": encoder_ids,
    "decoder_input_tokens": shift_right(targets, decoder_ids),
    "decoder_target_tokens": targets,
    "decoder_segment_ids": decoder_ids,
    "decoder_loss_weights": weights.astype(np.float32),
  }
