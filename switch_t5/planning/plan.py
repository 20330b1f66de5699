# SPDX-License-Identifier: Apache-2.0
"""A plan: plain values, as they are printed, drawn and written to JSON. Nothing here computes.

All bytes and FLOPs are of one step and one device unless a name says otherwise; times are in seconds.
"""

from __future__ import annotations

import dataclasses
from typing import Any

VERSION = 1


@dataclasses.dataclass(frozen=True)
class Work:
  """What is planned.

  Attributes:
    step: "train", "distill" or "infer".
    model: in words, e.g. "Switch, T5 1.1".
    parameters: how many, of all devices.
    experts: E, 0 of a dense model.
    activation_dtype: "float32" or "bfloat16".
    encoder_layers, decoder_layers: of the model.
    sparse_layers: in both stacks.
    rows: of the global batch.
    microbatches: parts of it.
    encoder_length, decoder_length: tokens of a row.
    parameter_sharding: "replicated" or "fsdp".
    remat: "none", "attention" or "full".
  """

  step: str
  model: str
  parameters: int
  experts: int
  activation_dtype: str
  encoder_layers: int
  decoder_layers: int
  sparse_layers: int
  rows: int
  microbatches: int
  encoder_length: int
  decoder_length: int
  parameter_sharding: str
  remat: str


@dataclasses.dataclass(frozen=True)
class Place:
  """Where it is to run.

  Attributes:
    topology: as it was asked for, e.g. "v5p:8x8x8".
    chip: its name in `CHIPS`, e.g. "v5p".
    devices: how many, as JAX counts them.
    slices: groups of devices with a slow network between them.
    mesh: devices along data, expert, model.
  """

  topology: str
  chip: str
  devices: int
  slices: int
  mesh: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of one device.

  Attributes:
    limit: what the chip has for a program.
    total: the compiler's peak; where it gave up, what it says it would need.
    kinds: what it is made of: "parameters", "optimizer", "batch", "gradients", "activations" (kept for
      the backward pass), "temporaries" (the rest), "program". They sum to `total`, or nearly.
    exact: whether the compiler counted it; else the closed form.
  """

  limit: int
  total: int
  kinds: dict[str, int]
  exact: bool

  @property
  def fits(self) -> bool:
    """Whether the step can run."""
    return self.total <= self.limit


@dataclasses.dataclass(frozen=True)
class Flops:
  """Floating-point operations of matmuls.

  Attributes:
    forward_per_row: of the model for one row forward, as Table 9 of the paper counts them.
    model: of the whole step and all devices: three times the forward pass of all rows (once where
      nothing is trained).
    counted: what one device's program does, recomputation and empty places of experts included.
    by_dtype: the same by the type of the operands.
  """

  forward_per_row: float
  model: float
  counted: float
  by_dtype: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective of the program, or the least that a layout needs.

  Attributes:
    kind: "all-to-all", "all-reduce", "all-gather", "reduce-scatter", "ragged-all-to-all" or
      "collective-permute".
    axes: mesh axes that it goes over; empty: groups that are no axes of the mesh.
    phase: "forward", "backward" or "update".
    where: "encoder", "decoder" or "" outside the stacks.
    times: how often in a step: layers of a loop and microbatches.
    bytes: of the operands of one device each time.
    crosses_slices: whether it goes over the slow network.
    what: XLA's name of the operation, shortened; or of a bound, what it moves.
  """

  kind: str
  axes: tuple[str, ...]
  phase: str
  where: str
  times: int
  bytes: int
  crosses_slices: bool = False
  what: str = ""

  @property
  def total(self) -> int:
    """Bytes a step."""
    return self.times * self.bytes


@dataclasses.dataclass(frozen=True)
class Time:
  """A roofline: what each part of a device would take alone.

  Attributes:
    compute: FLOPs over the peak of their type.
    memory: bytes to and from the device's memory over its bandwidth; the compiler's count where it
      has one that holds for loops, else the closed form.
    networks: seconds by network, "fast" and "slow".
    step: the longest of them, with networks added to compute: XLA hides only part of them.
    bound: "compute", "memory", "fast network" or "slow network": the longest.
    tokens_per_second: real positions of encoder and decoder, of all devices.
    model_flops_utilization: model FLOPs over what all devices could do in `step`.
  """

  compute: float
  memory: float
  networks: dict[str, float]
  step: float
  bound: str
  tokens_per_second: float
  model_flops_utilization: float


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A layout that was looked at.

  Attributes:
    mesh: (data, expert, model).
    parameter_sharding: "replicated" or "fsdp".
    microbatches: parts of the batch.
    remat: "none", "attention" or "full".
    memory: bytes of one device.
    step: seconds, estimated.
    fits: whether the memory is there.
    compiled: whether the compiler said so; else the closed form.
  """

  mesh: tuple[int, int, int]
  parameter_sharding: str
  microbatches: int
  remat: str
  memory: int
  step: float
  fits: bool
  compiled: bool


@dataclasses.dataclass(frozen=True)
class Plan:
  """All of it.

  Attributes:
    work: what is planned.
    place: where.
    memory: of a device.
    flops: of matmuls.
    time: estimated.
    collectives: of the compiled program; empty where only estimated.
    bounds: the least that the layout needs (`bounds`), to be held against them.
    dropped: expected fraction of tokens without a place, by stack, of a router that is even.
    rows_per_second: that the input must bring.
    checkpoint_bytes: of parameters and optimizer, of all devices.
    checkpoint_seconds: to write it at `checkpoint_bandwidth` bytes a second of each host.
    checkpoint_bandwidth: see there.
    advice: sentences: what to change and by how much, or what is noteworthy.
    candidates: of a search, the best first.
    compile_seconds: None where nothing was compiled.
    versions: of jax and the compiler.
  """

  work: Work
  place: Place
  memory: Memory
  flops: Flops
  time: Time
  collectives: tuple[Collective, ...]
  bounds: tuple[Collective, ...]
  dropped: dict[str, float]
  rows_per_second: float
  checkpoint_bytes: int
  checkpoint_seconds: float
  checkpoint_bandwidth: float
  advice: tuple[str, ...] = ()
  candidates: tuple[Candidate, ...] = ()
  compile_seconds: float | None = None
  versions: dict[str, str] = dataclasses.field(default_factory=dict)

  def as_json(self) -> dict[str, Any]:
    """Returns it as JSON can hold it, with derived values."""
    content = {"plan": VERSION, **dataclasses.asdict(self)}
    content["memory"]["fits"] = self.memory.fits
    for name in ("collectives", "bounds"):
      for entry, collective in zip(content[name], getattr(self, name), strict=True):
        entry["total"] = collective.total
    return content
