# SPDX-License-Identifier: Apache-2.0
"""Norms by layer: what is looked at when a run diverges."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from switch_t5.types import Array, PyTree

_LAYER = "layers_"  # of a block; its leaves are stacked over the block's repeats


def layer_norms(params: PyTree) -> dict[str, Array]:
  """Returns L2 norms, float32: [layers] for `encoder` and `decoder`, [] for what is in no layer.

  Args:
    params: a tree like the model's parameters, of gradients for instance.
  """
  squares: dict[str, Array | float] = defaultdict(float)
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    names = [key.key for key in path]
    layer = next((name for name in names if name.startswith(_LAYER)), None)
    kept = leaf.shape[:1] if layer else ()
    group = f"{names[0]}/{layer}" if layer else "/".join(names[:2])
    square = jnp.square(leaf.astype(jnp.float32))
    squares[group] += square.sum(axis=tuple(range(len(kept), leaf.ndim)))
  blocks: dict[str, list[Array]] = defaultdict(list)
  norms: dict[str, Array] = {}
  for group in sorted(squares, key=_by_position):
    stack, _, layer = group.partition("/")
    if layer.startswith(_LAYER):
      blocks[stack].append(jnp.sqrt(squares[group]))
    else:
      norms[group] = jnp.sqrt(squares[group])
  # Layer i is `layers_j` of repeat r, i = r * layers in a block + j.
  return norms | {stack: jnp.stack(of, axis=1).reshape(-1) for stack, of in blocks.items()}


def _by_position(group: str) -> tuple[str, int]:
  head, _, number = group.rpartition("_")
  return (head, int(number)) if number.isdigit() else (group, 0)


def describe_norms(norms: Mapping[str, Array | np.ndarray]) -> str:
  """Returns a line for each entry of `layer_norms`, for a terminal."""
  return "\n".join(
    f"    {name:<26} {' '.join(f'{norm:.3g}' for norm in np.ravel(values))}"
    for name, values in sorted(norms.items())
  )
