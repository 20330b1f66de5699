# SPDX-License-Identifier: Apache-2.0
"""Inference: texts in, texts and scores out, on any mesh."""
