# SPDX-License-Identifier: Apache-2.0
"""Metrics: from sums on the device to names, files and the terminal."""
