# SPDX-License-Identifier: Apache-2.0
"""Scores of answers: how texts become labels, and the official metrics of the tasks."""
