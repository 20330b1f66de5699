# SPDX-License-Identifier: Apache-2.0
"""The one train step: pretraining, fine-tuning, distillation and planning all compile this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import optax

from switch_t5.layers.row_key import RowKey
from switch_t5.metrics.train_metrics import MetricSums, StepMetrics
from switch_t5.model.definition import ModelDefinition
from switch_t5.model.switch_transformer import SwitchTransformer
from switch_t5.training.bad_steps import SKIP, BadSteps
from switch_t5.training.bias_balancing import balance_biases
from switch_t5.training.norms import layer_norms
from switch_t5.training.state import TrainState, shardings
from switch_t5.training.trained import merge, select
from switch_t5.types import Array, DeviceBatch, PRNGKey, PyTree

TrainStep = Callable[[TrainState, DeviceBatch], tuple[TrainState, StepMetrics]]


class Objective(Protocol):
  """What a step minimises. Sums over microbatches of a step give the full batch's loss."""

  def normalizer(self, batch: DeviceBatch) -> Array:
    """Returns what the token losses of the whole batch [microbatches, rows, length] are divided by."""

  def __call__(
    self,
    model: SwitchTransformer,
    microbatch: DeviceBatch,
    *,
    key: RowKey | None,
    normalizer: Array,
    microbatch_fraction: float,
    frozen: PyTree = None,
  ) -> tuple[Array, MetricSums]:
    """Returns this microbatch's part of the loss, and its sums.

    Args:
      model: the model.
      microbatch: features [rows, length].
      key: for dropout and jitter.
      normalizer: float32 [], of all microbatches of the step.
      microbatch_fraction: 1 / num_microbatches.
      frozen: arrays that it reads and that no step changes: a teacher's parameters.
    """


def build_train_step(
  definition: ModelDefinition,
  optimizer: optax.GradientTransformation,
  objective: Objective,
  abstract: TrainState,
  *,
  num_microbatches: int,
  trained: PyTree | None = None,
  bad_steps: BadSteps = BadSteps(),  # noqa: B008 - frozen
) -> jax.stages.Wrapped:
  """Compiles lazily: (state, batch [num_microbatches, rows, length], seed, frozen) -> (next state, metrics).

  `frozen` are arrays that the objective reads beside them, e.g. a teacher's parameters. The state's
  buffers are donated. All randomness is folded from (seed, step), so a resumed run draws what an
  undisturbed one would have; the seed, uint32 [], is no constant of the program, which runs of other
  seeds share. Frozen parameters, those that `trained` (of `trained_parameters`) says False of, stay
  as they are to the bit; None: all are trained. A bad step that is skipped, as `bad_steps` may say,
  returns the state that it was given.
  """

  def train_step(
    state: TrainState, batch: DeviceBatch, seed: Array, frozen: PyTree = None
  ) -> tuple[TrainState, StepMetrics]:
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    grads, sums = accumulate_gradients(
      definition,
      objective,
      state.params,
      batch,
      key,
      num_microbatches=num_microbatches,
      layout=shardings(abstract.params),
      trained=trained,
      frozen=frozen,
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    params = balance_biases(definition.config, state.params, params, sums.expert_load)
    if trained is not None:
      params = merge(select(params, trained), state.params)  # also past decay of weights
    norms = layer_norms(grads)
    is_bad = bad_steps.is_bad(sums.loss, norms)
    next_state = TrainState(state.step + 1, params, opt_state)
    if bad_steps.action == SKIP:
      next_state = jax.tree.map(lambda new, old: jnp.where(is_bad, old, new), next_state, state)
    return next_state, StepMetrics(sums, norms, is_bad)

  replicated = abstract.step.sharding
  out_shardings = (shardings(abstract), replicated)
  return jax.jit(train_step, donate_argnums=0, out_shardings=out_shardings)


def accumulate_gradients(
  definition: ModelDefinition,
  objective: Objective,
  params: PyTree,
  batch: DeviceBatch,
  key: PRNGKey,
  *,
  num_microbatches: int,
  layout: PyTree,
  trained: PyTree | None = None,
  frozen: PyTree = None,
) -> tuple[PyTree, MetricSums]:
  """Returns the full batch's gradients and sums, worked through in microbatches.

  The gradients of frozen parameters are zeros that nothing is computed for.

  Token losses are divided by one count, that of the whole batch, so accumulated microbatches equal
  the full batch also where their numbers of real tokens differ. The gradients are laid out as
  `layout` says, a tree of shardings: what is accumulated takes no more room than it must.
  """
  normalizer = objective.normalizer(batch)
  if trained is None:
    trained = jax.tree.map(lambda _: True, params)
  layout = select(layout, trained)

  rows = next(iter(batch.values())).shape[1]

  def microbatch_gradients(index: Array, microbatch: DeviceBatch):
    def loss_and_sums(selected: PyTree):
      return objective(
        definition.build(merge(selected, params)),
        microbatch,
        key=RowKey(key, index * rows),
        normalizer=normalizer,
        microbatch_fraction=1.0 / num_microbatches,
        frozen=frozen,
      )

    grads, sums = jax.grad(loss_and_sums, has_aux=True)(select(params, trained))
    # jax.grad of a scalar loss leaves the layout of the gradients to XLA.
    return jax.lax.with_sharding_constraint(grads, layout), sums

  def add(total, index_and_microbatch):
    return jax.tree.map(jnp.add, total, microbatch_gradients(*index_and_microbatch)), None

  first = jax.tree.map(lambda x: x[0], batch)
  if num_microbatches == 1:
    grads, sums = microbatch_gradients(jnp.int32(0), first)
  else:
    shapes = jax.eval_shape(microbatch_gradients, jnp.int32(0), first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    grads, sums = jax.lax.scan(add, zeros, (jnp.arange(num_microbatches), batch))[0]
  return merge(grads, jax.tree.map(jnp.zeros_like, params)), sums
