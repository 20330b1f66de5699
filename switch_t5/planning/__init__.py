# SPDX-License-Identifier: Apache-2.0
"""What a step will take on devices that are not there: compiled for them, counted, and drawn up."""
