# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of other systems: T5X, Flaxformer and Hugging Face, read and written."""
