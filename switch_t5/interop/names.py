# SPDX-License-Identifier: Apache-2.0
"""The one table of parameter names: ours, T5X's (Flaxformer's), Hugging Face's.

A row is one kind of parameter. Its T5X name has `{layer}` for the number of the layer in its stack;
Hugging Face numbers experts too, where T5X stacks them along the first axis:

| | T5X | Hugging Face | ours |
|---|---|---|---|
| layers | an array each | an array each | stacked over the repeats of a block |
| experts | stacked | an array each | stacked |
| kernels | [in, out] | [out, in] | [in, out] |

Ours is T5X's name with the layer's number split: `encoder/layers_7/...` is slice 3 of
`encoder/blocks/layers_1/...` where a block has two layers (`stacked`).
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import NamedTuple

from switch_t5.model.stack import run_name

SWITCH, T5 = "switch_transformers", "t5"  # Hugging Face's model types
_SUBLAYERS = {  # what Hugging Face calls a feed-forward sublayer
  SWITCH: "mlp",
  T5: "DenseReluDense",
}
_NOT_THERE = ""
# Our name of a parameter that is stacked over the repeats of a block.
IN_RUN = re.compile(r"(encoder|decoder)/(blocks(?:_\d+)?)/layers_(\d+)/(.*)")


class Row(NamedTuple):
  """One kind of parameter.

  Attributes:
    t5x: its name in T5X; `{layer}` is the layer's number.
    huggingface: its name there; `{expert}` the expert's number, `{mlp}` what the feed-forward sublayer
      is called. Empty: Hugging Face's classes have no such parameter.
    shape: its axes in T5X, a letter each: V vocabulary, d d_model, a H * d_kv, f d_ff or the expert's
      width, H heads, E experts, b relative position buckets.
    transposed: whether Hugging Face's is the transpose (of each expert's matrix).
  """

  t5x: str
  huggingface: str
  shape: str
  transposed: bool = False


def _kernel(t5x: str, huggingface: str, shape: str) -> Row:
  return Row(f"{t5x}/kernel", f"{huggingface}.weight" if huggingface else "", shape, True)


def _norm(t5x: str, huggingface: str) -> Row:
  return Row(f"{t5x}/scale", f"{huggingface}.weight", "d")


def _attention(t5x: str, huggingface: str) -> list[Row]:
  return [
    _kernel(f"{t5x}/query", f"{huggingface}.q", "da"),
    _kernel(f"{t5x}/key", f"{huggingface}.k", "da"),
    _kernel(f"{t5x}/value", f"{huggingface}.v", "da"),
    _kernel(f"{t5x}/out", f"{huggingface}.o", "ad"),
  ]


def _feed_forward(t5x: str, huggingface: str) -> list[Row]:
  experts = f"{huggingface}.experts.expert_{{expert}}"
  return [
    _kernel(f"{t5x}/wi", f"{huggingface}.wi", "df"),
    _kernel(f"{t5x}/wi_0", f"{huggingface}.wi_0", "df"),
    _kernel(f"{t5x}/wi_1", f"{huggingface}.wi_1", "df"),
    _kernel(f"{t5x}/wo", f"{huggingface}.wo", "fd"),
    _kernel(f"{t5x}/router/router_weights/w", f"{huggingface}.router.classifier", "dE"),
    _kernel(f"{t5x}/expert/wi", f"{experts}.wi", "Edf"),
    _kernel(f"{t5x}/expert/wi_0", _NOT_THERE, "Edf"),
    _kernel(f"{t5x}/expert/wi_1", _NOT_THERE, "Edf"),
    _kernel(f"{t5x}/expert/wo", f"{experts}.wo", "Efd"),
  ]


def _table() -> tuple[Row, ...]:
  encoder, decoder = "encoder/layers_{layer}", "decoder/layers_{layer}"
  encoder_hf, decoder_hf = "encoder.block.{layer}.layer", "decoder.block.{layer}.layer"
  bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
  return (
    Row("token_embedder/embedding", "shared.weight", "Vd"),
    Row("encoder/relpos_bias/rel_embedding", f"encoder.{bias}", "Hb", True),
    _norm(f"{encoder}/pre_attention_layer_norm", f"{encoder_hf}.0.layer_norm"),
    *_attention(f"{encoder}/attention", f"{encoder_hf}.0.SelfAttention"),
    _norm(f"{encoder}/pre_mlp_layer_norm", f"{encoder_hf}.1.layer_norm"),
    *_feed_forward(f"{encoder}/mlp", f"{encoder_hf}.1.{{mlp}}"),
    _norm("encoder/encoder_norm", "encoder.final_layer_norm"),
    Row("decoder/relpos_bias/rel_embedding", f"decoder.{bias}", "Hb", True),
    _norm(f"{decoder}/pre_self_attention_layer_norm", f"{decoder_hf}.0.layer_norm"),
    *_attention(f"{decoder}/self_attention", f"{decoder_hf}.0.SelfAttention"),
    _norm(f"{decoder}/pre_cross_attention_layer_norm", f"{decoder_hf}.1.layer_norm"),
    *_attention(f"{decoder}/encoder_decoder_attention", f"{decoder_hf}.1.EncDecAttention"),
    _norm(f"{decoder}/pre_mlp_layer_norm", f"{decoder_hf}.2.layer_norm"),
    *_feed_forward(f"{decoder}/mlp", f"{decoder_hf}.2.{{mlp}}"),
    _norm("decoder/decoder_norm", "decoder.final_layer_norm"),
    _kernel("decoder/logits_dense", "lm_head", "dV"),
  )


TABLE = _table()


@dataclasses.dataclass(frozen=True)
class Found:
  """A name, taken apart.

  Attributes:
    row: its kind.
    layer: number of the layer in its stack, or None.
    expert: number of the expert, or None where the name has none.
  """

  row: Row
  layer: int | None = None
  expert: int | None = None

  @property
  def t5x(self) -> str:
    """The parameter's name in T5X."""
    return self.row.t5x.format(layer=self.layer)

  def huggingface(self, model_type: str, expert: int | None = None) -> str:
    """Returns its name there; "" if there is none.

    Args:
      model_type: SWITCH or T5.
      expert: its number, where experts are apart.
    """
    return self.row.huggingface.format(layer=self.layer, expert=expert, mlp=_SUBLAYERS[model_type])


def find_t5x(name: str) -> Found | None:
  """Returns what a T5X name means; None if it is none of the table."""
  return _find(name, _patterns("t5x"))


def find_huggingface(name: str, model_type: str) -> Found | None:
  """Returns what a name in a Hugging Face checkpoint means; None if it is none of the table."""
  return _find(name, _patterns(model_type))


def stacked(name: str, layout: tuple[tuple[int, int], ...]) -> tuple[str, int | None]:
  """Returns our name of a T5X parameter, and its slice of our array.

  Args:
    name: in T5X.
    layout: of its stack: for each run, layers of a block and repeats.

  Returns:
    The name, and the index along the first axis, or None where ours is not stacked.
  """
  found = find_t5x(name)
  if found is None or found.layer is None:
    return name, None
  stack, _, rest = name.split("/", 2)
  first = 0
  for run, (block, repeats) in enumerate(layout):
    if found.layer < first + block * repeats:
      repeat, layer = divmod(found.layer - first, block)
      return f"{stack}/{run_name(run)}/layers_{layer}/{rest}", repeat
    first += block * repeats
  raise ValueError(f"{name} is not in a stack of {first} layers")


def unstacked(name: str, layout: tuple[tuple[int, int], ...]) -> list[str]:
  """Returns the T5X names of our parameter's slices, or its one name; the inverse of `stacked`.

  Args:
    name: ours, e.g. `encoder/blocks/layers_1/mlp/wi/kernel`.
    layout: of its stack, see `stacked`.
  """
  match = IN_RUN.fullmatch(name)
  if match is None:
    return [name]
  stack, of_name, layer, rest = match.groups()
  first = 0
  for run, (block, repeats) in enumerate(layout):
    if run_name(run) == of_name:
      numbers = range(first + int(layer), first + block * repeats, block)
      return [f"{stack}/layers_{number}/{rest}" for number in numbers]
    first += block * repeats
  raise ValueError(f"{name} is in none of {len(layout)} runs")


@functools.cache
def _patterns(form: str) -> Mapping[str, tuple[re.Pattern[str], Row]]:
  """Returns the pattern of each row, by the name with its numbers as #."""
  patterns = {}
  for row in TABLE:
    template = row.t5x if form == "t5x" else row.huggingface
    if not template:
      continue
    template = template.replace("{mlp}", _SUBLAYERS.get(form, ""))
    regex = re.escape(template)
    for number in ("layer", "expert"):
      regex = regex.replace(rf"\{{{number}\}}", rf"(?P<{number}>0|[1-9]\d{{0,5}})")
    shape = template.replace("{layer}", "#").replace("{expert}", "#")
    patterns[shape] = (re.compile(regex, re.ASCII), row)
  return patterns


def _find(name: str, patterns: Mapping[str, tuple[re.Pattern[str], Row]]) -> Found | None:
  if name in patterns:  # Hugging Face keeps a table that is the stack's in its layer 0
    return Found(patterns[name][1])
  shape = re.sub(r"(?<=layers_)\d+|(?<=expert_)\d+|(?<=block\.)\d+", "#", name)
  pattern, row = patterns.get(shape, (None, None))
  if pattern is None or row is None or not (match := pattern.fullmatch(name)):
    return None
  numbers = {key: int(value) for key, value in match.groupdict().items()}
  return Found(row, **numbers)
