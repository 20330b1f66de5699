# SPDX-License-Identifier: Apache-2.0
"""Where the routers of a model are, in the order in which it reports them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from switch_t5.model.config import ModelConfig
from switch_t5.model.stack import run_name


class RouterPlace(NamedTuple):
  """One router.

  Attributes:
    stack: "encoder" or "decoder".
    name: for people: the layer, counted from 0, and what of it is sparse: `encoder/layer_3/mlp`.
    path: of its parameters, which are stacked over repeats.
    repeat: which of them are its own.
  """

  stack: str
  name: str
  path: tuple[str, ...]
  repeat: int


def router_places(config: ModelConfig) -> Iterator[RouterPlace]:
  """Yields the routers as `ModelOutput.router` has them, encoder first."""
  for stack in ("encoder", "decoder"):
    attention = "attention" if stack == "encoder" else "self_attention"
    sublayers = {
      "feed_forward": ("mlp",),
      "attention": (attention,),
      "both": (attention, "mlp"),
    }[config.sparse_sublayers]
    layer = 0
    for run, (pattern, repeats) in enumerate(config.stack_layout(stack)):
      for repeat in range(repeats):
        for i, sparse in enumerate(pattern):
          for sublayer in sublayers if sparse else ():
            inside = ("router",) if sublayer == "mlp" else ("projections", "router")
            path = (stack, run_name(run), f"layers_{i}", sublayer, *inside)
            yield RouterPlace(stack, f"{stack}/layer_{layer}/{sublayer}", path, repeat)
          layer += 1
