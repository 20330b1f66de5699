# SPDX-License-Identifier: Apache-2.0
"""Distillation (section 4.2 of the paper): a teacher's part of the loss of the one train step."""
