# SPDX-License-Identifier: Apache-2.0
"""What defines a model. The configuration stops in this package: layers take plain arguments."""

from __future__ import annotations

import dataclasses
import itertools
import math

import jax.numpy as jnp

from switch_t5.errors import ConfigError, MeshError
from switch_t5.layers.moe.capacity import check_groups
from switch_t5.model.router_config import RouterConfig
from switch_t5.sharding.mesh import MeshShape

VOCAB_MULTIPLE = 128  # the table is padded to it, so that it divides over the model axis
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
REMAT = ("none", "attention", "full")
SPARSE_LAYOUTS = ("mixed", "all", "bottom", "top", "middle")
MLP_ACTIVATIONS = (("relu",), ("gelu", "linear"))
DEFAULT_ROUTER = RouterConfig()
SPARSE_SUBLAYERS = ("feed_forward", "attention", "both")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A T5 encoder-decoder, 1.0 or 1.1; Switch where `num_experts` > 0.

  Attributes:
    vocab_size: ids of the vocabulary, sentinels included; the table is padded to a multiple of 128.
    d_model: width of the residual stream, d.
    d_ff: width of a feed-forward layer or expert, f.
    d_kv: size of an attention head, k.
    num_heads: H.
    num_encoder_layers, num_decoder_layers: layers of each stack.
    mlp_activations: ("relu",) in T5 1.0; ("gelu", "linear"), gated GELU, in T5 1.1.
    logits_via_embedding: True in T5 1.0: logits from the embedding table, scaled by d^-1/2; False in
      T5 1.1: from a kernel of their own.
    num_experts: E; 0 for a dense model.
    num_encoder_sparse_layers, num_decoder_sparse_layers: how many layers of the stack are Switch
      layers, "sparse".
    encoder_sparse_layout, decoder_sparse_layout: which ones. "mixed": spread evenly, layer i iff
      i % m == m - 1, m = layers / sparse layers; "all" of them; "bottom": the first; "top": the last;
      "middle": as many dense layers before them as after them, or one more.
    sparse_sublayers: which sublayers of a sparse layer are Switch layers: the "feed_forward" one, the
      projections of self-"attention" (App. A), or "both".
    expert_d_ff: width of one feed-forward expert; None: d_ff. Fine-grained experts are narrow and
      many, and a token chooses several (DeepSeekMoE).
    num_shared_experts: feed-forward experts beside the routed ones that every token visits.
    encoder_router, decoder_router: how the sparse layers of each stack route.
    sequences_per_group: encoder sequences that are routed together, n.
    decoder_sequences_per_group: the same for the decoder; None: as in the encoder.
    group_size: T5X's way to say n: tokens per group, divided by the encoder length, down to a whole
      number of sequences. Set it or `sequences_per_group`, not both.
    train_capacity_factor: of training (paper: 1.25); None: dropless, experts take all that choose
      them. Where a token makes k choices, C = ceil(factor * N / E) places are for all of them.
    eval_capacity_factor: of evaluation during training (paper: 2.0), likewise. Inference is dropless.
    min_expert_capacity: least places of an expert for a group.
    dropout_rate: everywhere but inside the experts.
    expert_dropout_rate: of the experts' hidden activation.
    init_scale: s of the initialisers: 0.1 for Switch models, 1.0 for dense ones (Table 3).
    activation_dtype: "float32" or "bfloat16"; parameters, router, norms, softmax and logits are
      float32 always.
    scan_unroll: blocks of a stack compiled side by side; the parameters are the same for any value.
    remat: what the backward pass computes again: "none"; "attention": its probabilities, which take
      most of the memory and a few FLOPs; "full": all activations of a block, except what went through
      the all-to-alls.
  """

  vocab_size: int
  d_model: int
  d_ff: int
  d_kv: int
  num_heads: int
  num_encoder_layers: int
  num_decoder_layers: int
  mlp_activations: tuple[str, ...] = ("relu",)
  logits_via_embedding: bool = True
  num_experts: int = 0
  num_encoder_sparse_layers: int = 0
  num_decoder_sparse_layers: int = 0
  sparse_sublayers: str = "feed_forward"
  expert_d_ff: int | None = None
  num_shared_experts: int = 0
  encoder_router: RouterConfig = DEFAULT_ROUTER
  decoder_router: RouterConfig = DEFAULT_ROUTER
  encoder_sparse_layout: str = "mixed"
  decoder_sparse_layout: str = "mixed"
  sequences_per_group: int | None = None
  decoder_sequences_per_group: int | None = None
  group_size: int | None = None
  train_capacity_factor: float | None = 1.25
  eval_capacity_factor: float | None = 2.0
  min_expert_capacity: int = 4
  dropout_rate: float = 0.0
  expert_dropout_rate: float = 0.0
  init_scale: float = 1.0
  activation_dtype: str = "bfloat16"
  scan_unroll: int = 1
  remat: str = "none"

  def __post_init__(self):
    self._check_sizes()
    self._check_rates()
    self._check_kinds()
    self._check_sparse_layers()
    self._check_routers()

  def _check_sizes(self):
    sizes = (
      "vocab_size d_model d_ff d_kv num_heads num_encoder_layers num_decoder_layers "
      "min_expert_capacity scan_unroll"
    )
    optional = ("sequences_per_group", "decoder_sequences_per_group", "group_size", "expert_d_ff")
    given = [name for name in optional if getattr(self, name) is not None]
    for name in sizes.split() + given:
      _check_whole(name, getattr(self, name), least=1)
    counts = "num_experts num_encoder_sparse_layers num_decoder_sparse_layers num_shared_experts"
    for name in counts.split():
      _check_whole(name, getattr(self, name), least=0)

  def _check_rates(self):
    for name in ("dropout_rate", "expert_dropout_rate"):
      rate = getattr(self, name)
      is_rate = isinstance(rate, (int, float)) and 0.0 <= rate < 1.0
      _check(is_rate, name, repr(rate), "a number, at least 0, less than 1")
    for name in ("train_capacity_factor", "eval_capacity_factor", "init_scale"):
      factor = getattr(self, name)
      is_factor = isinstance(factor, (int, float)) and 0.0 < factor < math.inf
      dropless = name.endswith("capacity_factor")
      rule = "a finite number greater than 0" + (", or None for dropless routing" * dropless)
      _check(is_factor or (dropless and factor is None), name, repr(factor), rule)

  def _check_kinds(self):
    _check(
      self.mlp_activations in MLP_ACTIVATIONS,
      "mlp_activations",
      repr(self.mlp_activations),
      f"one of {', '.join(map(repr, MLP_ACTIVATIONS))}",
    )
    _check(
      isinstance(self.logits_via_embedding, bool),
      "logits_via_embedding",
      repr(self.logits_via_embedding),
      "True or False",
    )
    _check(
      self.activation_dtype in DTYPES,
      "activation_dtype",
      self.activation_dtype,
      f"one of {', '.join(DTYPES)} (float16 cannot hold T5's activations)",
    )
    for name, allowed in (("remat", REMAT), ("sparse_sublayers", SPARSE_SUBLAYERS)):
      _check(
        getattr(self, name) in allowed, name, getattr(self, name), f"one of {', '.join(allowed)}"
      )

  def _check_sparse_layers(self):
    for stack in ("encoder", "decoder"):
      layers, sparse, layout = self._sparse_layers(stack)
      name = f"{stack}_sparse_layout"
      lower = str(layout).lower()
      remedy = f"{name} = {lower!r}" if lower in SPARSE_LAYOUTS else None
      names = f"one of {', '.join(SPARSE_LAYOUTS)}"
      _check(layout in SPARSE_LAYOUTS, name, repr(layout), names, remedy)
      fits, rule = sparse <= layers, "at most"
      if layout == "mixed":
        fits, rule = sparse == 0 or layers % sparse == 0, "0 or a divisor of"
      elif layout == "all":
        fits, rule = sparse == layers, "equal to"
      rule += f" num_{stack}_layers ({layers}) where {name} is {layout!r}"
      _check(fits, f"num_{stack}_sparse_layers", sparse, rule)
    sparse = self.num_encoder_sparse_layers + self.num_decoder_sparse_layers
    _check(
      (self.num_experts > 0) == (sparse > 0),
      "num_experts",
      f"{self.num_experts} experts, {sparse} sparse layers",
      "more than 0 where there are sparse layers, and 0 where there are none",
    )
    if sparse:
      _check(
        (self.sequences_per_group is None) != (self.group_size is None),
        "sequences_per_group",
        f"sequences_per_group {self.sequences_per_group}, group_size {self.group_size}",
        "set, or group_size is, but not both: how many sequences are routed together",
      )

  def _check_routers(self):
    for stack in self.sparse_stacks:
      self.router(stack).check_experts(stack, self.num_experts)
      for name in self.router(stack).acts_on_places:
        _check(
          self.train_capacity_factor is not None,
          "train_capacity_factor",
          f"None, with {name} in {stack}_router",
          f"a number: {name} decides who gets a place, and without capacity all do",
        )
    if self.sparse_sublayers == "attention" or not self.sparse_stacks:
      for name in ("expert_d_ff", "num_shared_experts"):
        _check(
          not getattr(self, name),
          name,
          f"{getattr(self, name)}, and no layer has feed-forward experts",
          "left out where num_experts is 0 or sparse_sublayers is 'attention'",
        )

  @property
  def kind(self) -> str:
    """What it is in two words, for the user."""
    return f"Switch, {self.num_experts} experts" if self.num_experts else "dense"

  @property
  def sparse_stacks(self) -> list[str]:
    """The stacks that have sparse layers."""
    return [s for s in ("encoder", "decoder") if getattr(self, f"num_{s}_sparse_layers")]

  def router(self, stack: str) -> RouterConfig:
    """Returns how the sparse layers of a stack route."""
    return self.encoder_router if stack == "encoder" else self.decoder_router

  @property
  def expert_width(self) -> int:
    """Width of one feed-forward expert."""
    return self.expert_d_ff or self.d_ff

  @property
  def dtype(self):
    """The dtype of activations."""
    return DTYPES[self.activation_dtype]

  @property
  def padded_vocab_size(self) -> int:
    """V: rows of the embedding table."""
    return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

  def stack_layout(self, stack: str) -> tuple[tuple[tuple[bool, ...], int], ...]:
    """Returns the runs of a stack; see `sparse_runs`."""
    return sparse_runs(*self._sparse_layers(stack))

  def _sparse_layers(self, stack: str) -> tuple[int, int, str]:
    """Returns how many layers a stack has, how many of them are sparse, and the layout's name."""
    names = (f"num_{stack}_layers", f"num_{stack}_sparse_layers", f"{stack}_sparse_layout")
    layers, sparse, layout = (getattr(self, name) for name in names)
    return layers, sparse, layout

  def with_lengths(self, encoder_length: int) -> ModelConfig:
    """Turns `group_size` in tokens into `sequences_per_group`, once."""
    if self.group_size is None:
      return self
    n = self.group_size // encoder_length
    _check(
      n >= 1,
      "group_size",
      f"{self.group_size} tokens, encoder length {encoder_length}",
      "a group holds at least one whole sequence",
    )
    return dataclasses.replace(self, sequences_per_group=n, group_size=None)

  def group_sequences(self, stack: str) -> int:
    """Returns n of a stack that has sparse layers."""
    n = self.decoder_sequences_per_group if stack == "decoder" else None
    n = n or self.sequences_per_group
    if n is None:
      raise ConfigError("group_size was not yet turned into sequences.", rule="call with_lengths")
    return n

  def check_mesh(self, mesh: MeshShape, batch_size: int, num_microbatches: int) -> None:
    """Raises MeshError, before anything is compiled, if the model or batch does not divide."""
    over_model = {
      "num_heads": self.num_heads,
      "d_ff": self.d_ff,
      "expert_d_ff": self.expert_width,
      "d_model": self.d_model,
      "the padded vocabulary": self.padded_vocab_size,
    }
    _check_axis(over_model, "model", mesh.model)
    if self.num_experts:
      _check_axis({"num_experts": self.num_experts}, "expert", mesh.expert)
    groups = {stack: self.group_sequences(stack) for stack in self.sparse_stacks} or {"batch": 1}
    for stack, n in groups.items():
      check_groups(
        stack,
        batch_size=batch_size,
        num_microbatches=num_microbatches,
        sequences_per_group=n,
        batch_shards=mesh.batch_shards,
      )


def sparse_runs(layers: int, sparse: int, layout: str) -> tuple[tuple[tuple[bool, ...], int], ...]:
  """Returns the runs of a stack: which layers of the run's block are sparse, and its repeats.

  Args:
    layers: of the stack.
    sparse: how many of them are sparse; a number that fits the layout.
    layout: one of `SPARSE_LAYOUTS`.
  """
  if layout == "mixed" and sparse:
    spacing = layers // sparse
    return ((tuple(i == spacing - 1 for i in range(spacing)), sparse),)
  first = {"top": layers - sparse, "middle": (layers - sparse + 1) // 2}.get(layout, 0)
  is_sparse = [first <= i < first + sparse for i in range(layers)]
  return tuple(((kind,), len(list(run))) for kind, run in itertools.groupby(is_sparse))


def _check(holds: bool, name: str, value: object, rule: str, remedy: str | None = None) -> None:
  if not holds:
    what = f"ModelConfig.{name} is not valid."
    raise ConfigError(what, value=value, rule=f"{name} is {rule}", remedy=remedy)


def _check_whole(name: str, value: object, *, least: int) -> None:
  if isinstance(value, bool) or not isinstance(value, int) or value < least:
    raise ConfigError(
      f"ModelConfig.{name} is not a whole number, or too small.",
      value=repr(value),
      rule=f"{name} is a whole number, at least {least}",
    )


def _check_axis(sizes: dict[str, int], axis: str, devices: int) -> None:
  """Raises MeshError unless all sizes divide; its remedy divides all of them."""
  fits = [n for n in range(1, devices + 1) if math.gcd(*sizes.values()) % n == 0]
  for name, size in sizes.items():
    if size % devices:
      raise MeshError(
        f"{name} does not divide over the mesh axis {axis}.",
        value=f"{name} = {size}, {devices} devices along {axis}",
        rule=f"{name} is a multiple of the devices along {axis}",
        remedy=f"{axis} of {', '.join(map(str, fits))} in MESH_SHAPE = (data, expert, model)",
      )
