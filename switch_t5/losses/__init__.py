# SPDX-License-Identifier: Apache-2.0
"""Losses: sums over tokens, divided by one global count."""
