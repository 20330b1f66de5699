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
  squares: dict[tuple[str, ...], Array | float] = defaultdict(float)
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    names = tuple(key.key for key in path)
    in_layer = any(name.startswith(_LAYER) for name in names)
    kept = leaf.shape[:1] if in_layer else ()
    square = jnp.square(leaf.astype(jnp.float32))
    squares[names[: 3 if in_layer else 2]] += square.sum(axis=tuple(range(len(kept), leaf.ndim)))
  runs: dict[tuple[str, str], list[Array]] = defaultdict(list)
  norms: dict[str, Array] = {}
  for group in sorted(squares, key=_by_position):
    match group:
      case stack, run, _:
        runs[stack, run].append(jnp.sqrt(squares[group]))
      case _:
        norms["/".join(group)] = jnp.sqrt(squares[group])
  stacks: dict[str, list[Array]] = defaultdict(list)
  for (stack, _), layers in runs.items():
    # Layer i of a run is `layers_j` of repeat r, i = r * layers in a block + j.
    stacks[stack].append(jnp.stack(layers, axis=1).reshape(-1))
  return norms | {stack: jnp.concatenate(of) for stack, of in stacks.items()}


def _by_position(group: tuple[str, ...]) -> list[tuple[str, int]]:
  """Sorts `blocks` before `blocks_1`, and `layers_2` before `layers_10`."""
  parts = [(name, *name.rpartition("_")) for name in group]
  return [(head, int(number)) if number.isdigit() else (name, 0) for name, head, _, number in parts]


def describe_norms(norms: Mapping[str, Array | np.ndarray]) -> str:
  """Returns a line for each entry of `layer_norms`, for a terminal."""
  return "\n".join(
    f"    {name:<26} {' '.join(f'{norm:.3g}' for norm in np.ravel(values))}"
    for name, values in sorted(norms.items())
  )
