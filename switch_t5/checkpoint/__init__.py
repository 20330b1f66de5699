# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are verified before they are trusted, and the lock on the directory of a run."""
