# SPDX-License-Identifier: Apache-2.0
"""A model without its values: what training, checkpoints and planning start from.

Parameters travel as a plain nested dict of arrays (`params`); the NNX graph is static.
"""

from __future__ import annotations

import dataclasses

import jax
from flax import nnx

from switch_t5.model.config import ModelConfig
from switch_t5.model.switch_transformer import SwitchTransformer
from switch_t5.types import PRNGKey, PyTree


@dataclasses.dataclass(frozen=True)
class ModelDefinition:
  """The shape of a model.

  Attributes:
    config: what it was made from.
    shapes: nested dict of jax.ShapeDtypeStruct, float32.
    axes: the same dict of logical axis names (`types.AxisNames`).
  """

  config: ModelConfig
  shapes: PyTree
  axes: PyTree
  _graph: nnx.GraphDef
  _structure: jax.tree_util.PyTreeDef

  def build(self, params: PyTree) -> SwitchTransformer:
    """Returns the model with these values (arrays or tracers)."""
    return nnx.merge(self._graph, jax.tree.unflatten(self._structure, jax.tree.leaves(params)))

  def init(self, key: PRNGKey) -> PyTree:
    """Draws new parameters; call it inside jit, with the shardings of `axes` for its output."""
    model = SwitchTransformer(self.config, rngs=nnx.Rngs(params=key))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def define_model(config: ModelConfig) -> ModelDefinition:
  """Traces the constructor: no memory is allocated."""
  model = nnx.eval_shape(lambda: SwitchTransformer(config, rngs=nnx.Rngs(params=0)))
  graph, state = nnx.split(model)
  shapes = nnx.to_pure_dict(state)
  is_param = lambda node: isinstance(node, nnx.Param)  # noqa: E731
  axes = [p.get_metadata()["axes"] for p in jax.tree.leaves(state, is_leaf=is_param)]
  return ModelDefinition(
    config=config,
    shapes=shapes,
    axes=jax.tree.unflatten(jax.tree.structure(shapes), axes),
    _graph=graph,
    _structure=jax.tree.structure(state),
  )
