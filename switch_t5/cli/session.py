# SPDX-License-Identifier: Apache-2.0
"""What training and evaluation share: mesh, model, state layout, batches, held-out metrics."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from switch_t5.batch import DECODER_TARGET_TOKENS, ENCODER_INPUT_TOKENS, batch_spec
from switch_t5.cli.run_data import RunData
from switch_t5.cli.train_config import TrainConfig
from switch_t5.decoding import DecodingConfig
from switch_t5.errors import memory_for
from switch_t5.evaluation.fill_spans import FilledSpans, pair_spans
from switch_t5.inference.text_model import TextModel
from switch_t5.metrics.piece_counts import PieceCounts
from switch_t5.metrics.train_metrics import StepFlops, mean_names, window_means
from switch_t5.model.config import ModelConfig
from switch_t5.model.cost import forward_flops_per_sequence
from switch_t5.model.definition import ModelDefinition, define_model
from switch_t5.model.router_places import router_places
from switch_t5.planning.chips import peak_of
from switch_t5.sharding.mesh import MeshShape, make_mesh
from switch_t5.sharding.placement import batch_sharding, local_rows, place_batch
from switch_t5.sharding.rules import PARAMETER_RULES
from switch_t5.training.eval_step import EvalStep, build_eval_step
from switch_t5.training.objective import CrossEntropyObjective, SoftTargets
from switch_t5.training.state import TrainState, abstract_state
from switch_t5.training.train_step import TrainStep, build_train_step
from switch_t5.training.trained import ALL, trained_parameters
from switch_t5.types import DeviceBatch, HostBatch, PyTree


@dataclasses.dataclass(frozen=True)
class Session:
  """A run's fixed parts, on its devices.

  Attributes:
    config: what it was made from.
    model: the model's configuration, groups resolved.
    mesh: of the devices.
    definition: the model without values.
    optimizer: of its parameters.
    abstract: shapes and shardings of the state.
    trained: the parameters' tree, True for those that are trained.
  """

  config: TrainConfig
  model: ModelConfig
  mesh: Mesh
  definition: ModelDefinition
  optimizer: optax.GradientTransformation
  abstract: TrainState
  trained: PyTree

  @functools.cached_property
  def rows(self) -> np.ndarray:
    """Which rows of a global batch this process supplies."""
    return local_rows(self.mesh, self.config.dataset.batch_size, self.config.num_microbatches)

  @contextlib.contextmanager
  def on_mesh(self) -> Iterator[None]:
    """On the devices; raises ConfigError if state and batch do not fit their memory."""
    mesh = ", ".join(f"{axis} {size}" for axis, size in self.mesh.shape.items())
    memory = memory_for(
      "The model with a batch",
      value=f"BATCH_SIZE = {self.config.dataset.batch_size} in {self.config.num_microbatches} "
      f"microbatch(es) on {mesh}",
      remedy="a larger NUM_MICROBATCHES, ModelConfig.remat = 'attention' or 'full', more devices along expert or "
      "model, or train.parameter_sharding = 'fsdp'",
    )
    with memory, jax.set_mesh(self.mesh):
      yield

  def place(self, local: HostBatch) -> DeviceBatch:
    """Makes global arrays [microbatches, rows, length] of this process's rows."""
    return place_batch(
      local, self.mesh, self.rows, self.config.dataset.batch_size, self.config.num_microbatches
    )

  def abstract_batch(self, teacher_k: int = 0) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes and shardings of a batch; with a teacher's k probabilities if there are any."""
    dataset, parts = self.config.dataset, self.config.num_microbatches
    leading = (parts, dataset.batch_size // parts)
    sharding = batch_sharding(self.mesh)
    specs = batch_spec(leading, dataset.encoder_length, dataset.decoder_length, teacher_k)
    return {
      name: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=sharding)
      for name, spec in specs.items()
    }

  def trace_train_step(
    self,
    state: TrainState,
    *,
    soft_targets: SoftTargets | None = None,
    teacher_k: int = 0,
    frozen: PyTree = None,
  ) -> jax.stages.Traced:
    """Returns the step that `train` runs, (state, batch, seed, frozen), to be lowered and compiled.

    Args:
      state: of arrays, or `abstract`.
      soft_targets: of a teacher, for distillation.
      teacher_k: how many of its probabilities a batch holds, if any.
      frozen: its parameters, where it is in memory; arrays, or their shapes and shardings.
    """
    factor = self.model.train_capacity_factor
    train_step = build_train_step(
      self.definition,
      self.optimizer,
      CrossEntropyObjective(self.config.loss, factor, soft_targets),
      self.abstract,
      num_microbatches=self.config.num_microbatches,
      trained=self.trained,
      bad_steps=self.config.bad_steps,
    )
    return train_step.trace(state, self.abstract_batch(teacher_k), self.seed, frozen)

  def train_step(self, compiled: jax.stages.Compiled, frozen: PyTree = None) -> TrainStep:
    """Returns a compiled step as a loop calls it, with the run's seed and the `frozen` of its trace."""
    return lambda state, batch: compiled(state, batch, self.seed, frozen)

  @property
  def seed(self) -> np.uint32:
    """Of all that is drawn, as the train step takes it."""
    return np.uint32(self.config.seed)

  @property
  def step_flops(self) -> StepFlops | None:
    """What MFU goes by: three times the forward FLOPs of Table 9 of the paper, and the devices' peaks.

    Every position of the batch counts, padding too, and nothing that is computed again in the backward
    pass; a teacher's part does not. None where some parameters are frozen: that costs less than three times.
    """
    if self.config.trained != ALL:
      return None
    dataset, kind = self.config.dataset, self.mesh.devices.flat[0].device_kind
    forward = forward_flops_per_sequence(self.model, dataset.encoder_length, dataset.decoder_length)
    peak = peak_of(kind, self.model.activation_dtype)
    return StepFlops(3 * forward * dataset.batch_size, peak and peak * self.mesh.size)

  def build_eval_step(self) -> EvalStep:
    """Returns the evaluation step: evaluation's capacity factor, no noise."""
    loss = dataclasses.replace(self.config.loss, label_smoothing=0.0)
    objective = CrossEntropyObjective(loss, self.model.eval_capacity_factor)
    return build_eval_step(self.definition, objective, self.mesh, self.config.num_microbatches)

  def validation_batches(self, data: RunData) -> Iterator[DeviceBatch]:
    """Yields the validation split once, or its first `eval_steps` batches."""
    return map(
      self.place, itertools.islice(data.validation_reader(self.rows), self.config.eval_steps)
    )

  def held_out_metrics(
    self,
    eval_step: EvalStep,
    params: PyTree,
    data: RunData,
    stop: Callable[[], bool] = lambda: False,
    pieces: PieceCounts | None = None,
  ) -> dict[str, float]:
    """Returns the metrics of the validation split by public name, `eval/<task>/<metric>`.

    None of them if `stop`, asked before each batch, said so. `pieces` are told what experts took.
    """
    sums = []
    for batch in self.validation_batches(data):
      if stop():
        return {}
      evaluated = jax.block_until_ready(eval_step(params, batch))
      sums.append(evaluated.sums)
      if pieces is not None:
        pieces.add(jax.device_get(evaluated.taken))
    task = self.config.dataset.mixture_or_task_name
    return {f"eval/{task}/{name}": value for name, value in window_means(sums).items()}

  @property
  def router_names(self) -> list[str]:
    """Names of the routers, in the order in which the model reports them."""
    return [place.name for place in router_places(self.model)]

  def held_out_names(self) -> list[str]:
    """Returns the names of `held_out_metrics`, before anything was measured."""
    task = self.config.dataset.mixture_or_task_name
    return [f"eval/{task}/{name}" for name in mean_names(bool(self.model.num_experts))]

  def fill_held_out_spans(self, params: PyTree, data: RunData) -> list[FilledSpans]:
    """Fills the masked spans of the first `show_samples` validation rows, greedily."""
    names = (ENCODER_INPUT_TOKENS, DECODER_TARGET_TOKENS)
    everywhere = NamedSharding(self.mesh, PartitionSpec())
    whole = jax.jit(lambda batch: [batch[name][0] for name in names], out_shardings=everywhere)
    rows = jax.device_get(whole(next(self.validation_batches(data))))
    inputs, targets = (array[: self.config.show_samples] for array in rows)
    model = TextModel(
      self.definition, params, data.vocabulary, self.mesh, batch_size=rows[0].shape[0]
    )
    decoding = DecodingConfig(max_tokens=targets.shape[1])
    answers = model.generate_ids([np.trim_zeros(row, "b").tolist() for row in inputs], decoding)
    decode = data.vocabulary.decode
    return [
      pair_spans(decode(text), decode(truth), decode(answer.ids))
      for text, truth, answer in zip(inputs, targets, answers, strict=True)
    ]


def open_session(config: TrainConfig, devices: Sequence[jax.Device] | None = None) -> Session:
  """Checks everything that can be checked before data and compilation, and lays out the state.

  Args:
    config: of the run.
    devices: to lay it out on, also ones that are only planned; None: those of this run.

  Raises:
    MeshError: if model, batch or groups do not divide over the mesh, or devices are missing.
    ConfigError: if no parameter would be trained.
  """
  mesh_shape = MeshShape.parse(config.mesh_shape)
  mesh = make_mesh(mesh_shape, devices)
  model = config.checked_model(mesh_shape)
  definition = define_model(model)
  optimizer = config.make_optimizer(definition)
  return Session(
    config=config,
    model=model,
    mesh=mesh,
    definition=definition,
    optimizer=optimizer,
    abstract=abstract_state(
      definition, optimizer, mesh, PARAMETER_RULES[config.parameter_sharding]
    ),
    trained=trained_parameters(definition, config.trained),
  )
