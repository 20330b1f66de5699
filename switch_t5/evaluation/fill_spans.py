# SPDX-License-Identifier: Apache-2.0
"""What a model fills the masked spans of a text with, span by span."""

from __future__ import annotations

import dataclasses
import re

_SENTINEL = re.compile(r"<extra_id_\d+>")


@dataclasses.dataclass(frozen=True)
class FilledSpans:
  """One example as text.

  Attributes:
    text: the corrupted input, with sentinels in place of the spans.
    spans: (sentinel, truth, prediction) of each span, in the order of the text.
  """

  text: str
  spans: list[tuple[str, str, str]]


def pair_spans(text: str, truth: str, predicted: str) -> FilledSpans:
  """Pairs the true and the predicted text of each sentinel of one example.

  Args:
    text: the corrupted input.
    truth, predicted: targets, `<extra_id_0> a <extra_id_1> b`.
  """
  true_spans, predicted_spans = _by_sentinel(truth), _by_sentinel(predicted)
  spans = [
    (sentinel, true_spans.get(sentinel, ""), predicted_spans.get(sentinel, ""))
    for sentinel in _SENTINEL.findall(text)
  ]
  return FilledSpans(text, spans)


def fill_in(text: str, answer: str) -> str | None:
  """Returns a text with `[...]` in place of the sentinels that the answer has; None if it has none."""
  spans = _by_sentinel(answer)
  if not any(sentinel in spans for sentinel in _SENTINEL.findall(text)):
    return None
  return _SENTINEL.sub(
    lambda match: f"[{spans[match[0]]}]" if match[0] in spans else match[0], text
  )


def _by_sentinel(text: str) -> dict[str, str]:
  """Splits `<extra_id_0> a <extra_id_1> b` into {sentinel: text}; the first of a repeated one wins."""
  sentinels, texts = _SENTINEL.findall(text), _SENTINEL.split(text)[1:]
  pairs = zip(reversed(sentinels), reversed(texts), strict=True)
  return {sentinel: span.strip() for sentinel, span in pairs}
