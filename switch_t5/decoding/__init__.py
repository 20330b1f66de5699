# SPDX-License-Identifier: Apache-2.0
"""Decoding: from the next token's logits to whole answers, whatever model gives the logits."""

from switch_t5.decoding.config import DecodingConfig

__all__ = ["DecodingConfig"]
