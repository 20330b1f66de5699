# SPDX-License-Identifier: Apache-2.0
"""How the sparse layers of a stack route."""

from __future__ import annotations

import dataclasses
import math

from flax import nnx

from switch_t5.errors import ConfigError, suggest
from switch_t5.layers.moe.router import ControlRouter, ExpertChoiceRouter, TopKRouter
from switch_t5.layers.moe.router_statistics import BALANCE_SCOPES
from switch_t5.layers.moe.routers.scores import SCORES
from switch_t5.layers.moe.routers.second_place import SECOND_POLICIES
from switch_t5.layers.moe.routing import Router

KINDS = ("top_k", "expert_choice", "hash", "random")

EXPLORATIONS = ("jitter", "argmax", "sample", "input_dropout")
# Which routers an option acts on.
_SCORING = ("top_k", "expert_choice")
_ACTS_ON = {
  "num_selected_experts": ("top_k",),
  "scores": _SCORING,
  "renormalize_gates": ("top_k",),
  "second_expert_policy": ("top_k",),
  "second_expert_threshold": ("top_k",),
  "exploration": _SCORING,
  "jitter_noise": _SCORING,
  "input_dropout_rate": _SCORING,
  "batch_prioritized": ("top_k",),
  "no_token_left_behind": ("top_k",),
  "bias_update_rate": ("top_k",),
  "experts_per_token": ("expert_choice",),
  "balance_scope": ("top_k",),
}


@dataclasses.dataclass(frozen=True, repr=False)
class RouterConfig:
  """A router. An option that this router does not have is refused.

  Attributes:
    kind: "top_k", tokens choose experts (with one choice a Switch layer); "expert_choice", experts
      choose tokens (Zhou et al. 2022; encoder only); the controls "hash" (Roller et al. 2021), by
      the token's id, and "random".
    num_selected_experts: k, of top_k.
    scores: "softmax" over experts, or "sigmoid" of each (DeepSeek-V3).
    renormalize_gates: gates of a token sum to 1; needs two choices or more.
    second_expert_policy: of the second of two choices, as in Mesh-TensorFlow's top-2 (the MoE of
      Table 1): "all" are kept, "none", those whose gate is over the "threshold", or each at
      "random" with probability gate / threshold (in evaluation as "threshold").
    second_expert_threshold: 0.2 there.
    exploration: noise of training (App. C, Table 11): "jitter" of the router's input, "argmax" for
      none, "sample" the experts from the router's probabilities, "input_dropout".
    jitter_noise: epsilon: the input is multiplied by uniform(1 - epsilon, 1 + epsilon).
    input_dropout_rate: of the router's input.
    batch_prioritized: places go to tokens in the order of their gates (Riquelme et al. 2021; encoder
      only).
    no_token_left_behind: how many experts a token that finds its expert full tries, the first
      included (App. B; 4 in Mesh-TensorFlow); 1 for no second try.
    bias_update_rate: gamma of the bias that balances without a loss (Wang et al. 2024; 1e-3 in
      DeepSeek-V3): after each step an expert's bias moves by gamma, up if it had less than the mean
      load, down if it had more. 0 for no bias.
    experts_per_token: of expert_choice: how many experts take a token, on average.
    balance_scope: over what the load-balance loss takes its fractions: each "group", the groups of a
      "device" (which makes the loss depend on the mesh), or the "global" (micro)batch.
  """

  kind: str = "top_k"
  num_selected_experts: int = 1
  scores: str = "softmax"
  renormalize_gates: bool = False
  second_expert_policy: str = "all"
  second_expert_threshold: float = 0.2
  exploration: str = "jitter"
  jitter_noise: float = 1e-2
  input_dropout_rate: float = 0.1
  batch_prioritized: bool = False
  no_token_left_behind: int = 1
  bias_update_rate: float = 0.0
  experts_per_token: float = 2.0
  balance_scope: str = "group"

  def __post_init__(self):
    self._check_values()
    self._check_combinations()

  def __repr__(self) -> str:
    """Names what differs from a Switch layer's router."""
    named = ["kind"] * (self.kind != "top_k") + self._changed()
    return f"RouterConfig({', '.join(f'{name}={getattr(self, name)!r}' for name in named)})"

  def _check_values(self):
    for name, allowed in (
      ("kind", KINDS),
      ("scores", SCORES),
      ("second_expert_policy", SECOND_POLICIES),
      ("exploration", EXPLORATIONS),
      ("balance_scope", BALANCE_SCOPES),
    ):
      value = getattr(self, name)
      if value not in allowed:
        raise ConfigError(
          f"Unknown RouterConfig.{name}.",
          value=repr(value),
          rule=f"{name} is one of {', '.join(allowed)}",
          remedy=suggest(str(value), allowed),
        )
    for name in ("num_selected_experts", "no_token_left_behind"):
      value = getattr(self, name)
      whole = isinstance(value, int) and not isinstance(value, bool)
      _check(whole and value >= 1, name, value, "a whole number, at least 1")
    for name in ("renormalize_gates", "batch_prioritized"):
      _check(isinstance(getattr(self, name), bool), name, getattr(self, name), "True or False")
    for name in ("jitter_noise", "input_dropout_rate"):
      value = getattr(self, name)
      _check(_is_number(value) and 0 <= value < 1, name, value, "at least 0, less than 1")
    for name in ("second_expert_threshold", "experts_per_token"):
      value = getattr(self, name)
      _check(_is_number(value) and value > 0, name, value, "a finite number greater than 0")
    rate = self.bias_update_rate
    _check(_is_number(rate) and rate >= 0, "bias_update_rate", rate, "a finite number, 0 or more")

  def _check_combinations(self):
    for name in self._changed():
      if self.kind not in _ACTS_ON[name]:
        raise ConfigError(
          f"The router {self.kind!r} has no option {name}.",
          value=f"{name} = {getattr(self, name)!r}",
          rule=f"{name} is an option of {' and '.join(_ACTS_ON[name])}",
          remedy=f"leave {name} out, or set kind to {_ACTS_ON[name][0]!r}",
        )
    k = self.num_selected_experts
    _check_pair(
      self.renormalize_gates and k == 1,
      "renormalize_gates with one choice",
      "the gate would be 1 always, and the router would learn nothing from the experts' outputs",
      "num_selected_experts of 2 or more",
    )
    _check_pair(
      self.second_expert_policy != "all" and k != 2,
      f"second_expert_policy {self.second_expert_policy!r} with {k} choice(s)",
      "the policy decides about the second of two choices",
      "num_selected_experts = 2, or second_expert_policy = 'all'",
    )
    _check_pair(
      self.no_token_left_behind > 1 and k > 1,
      f"no_token_left_behind with {k} choices",
      "App. B re-routes tokens that choose one expert",
      "num_selected_experts = 1, or no_token_left_behind = 1",
    )
    _check_pair(
      self.bias_update_rate > 0 and self.exploration == "sample",
      "bias_update_rate with exploration 'sample'",
      "a sampled choice does not look at the bias",
      "exploration = 'argmax' or 'jitter'",
    )
    _check_pair(
      self.scores == "sigmoid" and self.exploration == "sample",
      "scores 'sigmoid' with exploration 'sample'",
      "experts are sampled from a softmax",
      "exploration = 'argmax' or 'jitter'",
    )
    for name, needed in (("jitter_noise", "jitter"), ("input_dropout_rate", "input_dropout")):
      _check_pair(
        name in self._changed() and self.exploration != needed,
        f"{name} = {getattr(self, name)} with exploration {self.exploration!r}",
        f"{name} is of exploration {needed!r}",
        f"exploration = {needed!r}, or leave {name} out",
      )

  def _changed(self) -> list[str]:
    """Returns the options that are not as they are by default."""
    fields = dataclasses.fields(self)
    return [f.name for f in fields if f.name != "kind" and getattr(self, f.name) != f.default]

  @property
  def experts_visited(self) -> float:
    """How many experts a token visits, on average, where none is dropped."""
    if self.kind == "expert_choice":
      return self.experts_per_token
    return self.num_selected_experts

  @property
  def acts_on_places(self) -> list[str]:
    """Options that decide who gets a place, and so need a capacity."""
    tries = self.no_token_left_behind > 1
    return ["batch_prioritized"] * self.batch_prioritized + ["no_token_left_behind"] * tries

  @property
  def encoder_only(self) -> str | None:
    """What of it cannot be in a decoder, as an assignment; None if all can."""
    if self.kind == "expert_choice":
      return "kind = 'expert_choice'"
    return "batch_prioritized = True" if self.batch_prioritized else None

  def check_experts(self, stack: str, num_experts: int) -> None:
    """Raises ConfigError if the router does not fit a stack with so many experts."""
    for name in ("num_selected_experts", "no_token_left_behind", "experts_per_token"):
      value = getattr(self, name)
      if value > num_experts and name in (*self._changed(), "num_selected_experts"):
        raise ConfigError(
          f"The {stack}'s router wants more experts for a token than there are.",
          value=f"{name} {value}, {num_experts} experts",
          rule=f"{name} is at most num_experts",
          remedy=f"{name} of at most {num_experts}, or NUM_EXPERTS of {math.ceil(value)}",
        )
    if stack == "decoder" and self.encoder_only:
      raise ConfigError(
        "This router cannot be in a decoder.",
        value=f"decoder_router with {self.encoder_only}",
        rule="a decoder's token must not depend on later ones, and here its places do",
        remedy=f"for the encoder alone: encoder/RouterConfig.{self.encoder_only}",
      )

  def make(self, d_model: int, num_experts: int, *, scale: float, rngs: nnx.Rngs) -> Router:
    """Makes the router of one layer."""
    if self.kind in ("hash", "random"):
      return ControlRouter(num_experts, self.kind)
    scoring = {
      "scores": self.scores,
      "jitter_noise": self.jitter_noise if self.exploration == "jitter" else 0.0,
      "input_dropout_rate": (
        self.input_dropout_rate if self.exploration == "input_dropout" else 0.0
      ),
      "scale": scale,
      "rngs": rngs,
    }
    if self.kind == "expert_choice":
      return ExpertChoiceRouter(
        d_model, num_experts, experts_per_token=self.experts_per_token, **scoring
      )
    return TopKRouter(
      d_model,
      num_experts,
      num_selected=self.num_selected_experts,
      renormalize_gates=self.renormalize_gates,
      second_policy=self.second_expert_policy,
      second_threshold=self.second_expert_threshold,
      sample=self.exploration == "sample",
      batch_prioritized=self.batch_prioritized,
      num_tries=self.no_token_left_behind,
      balance_bias=self.bias_update_rate > 0,
      **scoring,
    )


def _is_number(value: object) -> bool:
  if isinstance(value, bool) or not isinstance(value, (int, float)):
    return False
  return math.isfinite(value)


def _check(holds: bool, name: str, value: object, rule: str) -> None:
  if not holds:
    raise ConfigError(
      f"RouterConfig.{name} is not valid.", value=repr(value), rule=f"{name} is {rule}"
    )


def _check_pair(clash: bool, value: str, rule: str, remedy: str) -> None:
  if clash:
    what = "Two options of RouterConfig do not go together."
    raise ConfigError(what, value=value, rule=rule, remedy=remedy)
