# SPDX-License-Identifier: Apache-2.0
"""Decoding: from the next token's logits to whole answers."""
