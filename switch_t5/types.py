# SPDX-License-Identifier: Apache-2.0
"""Array and tree aliases. Shapes are given in docstrings, in the letters of docs/architecture.md."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

Array = jax.Array
PRNGKey = jax.Array  # a typed key, as jax.random.key makes it
DType = Any  # anything jnp.dtype accepts
PyTree = Any
HostBatch = dict[str, np.ndarray]  # the features of switch_t5.batch, this process's rows
DeviceBatch = dict[str, jax.Array]  # the same features as global arrays
AxisNames = tuple[str | None, ...]  # a logical axis name (or None) for each dimension of an array
