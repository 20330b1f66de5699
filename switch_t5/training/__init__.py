# SPDX-License-Identifier: Apache-2.0
"""Training: the state, its sharded birth, the one train step, the loop and its hooks."""
