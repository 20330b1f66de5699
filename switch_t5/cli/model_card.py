# SPDX-License-Identifier: Apache-2.0
"""The card of an exported model: README.md and model_card.json, of what is known and nothing else."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from switch_t5.checkpoint.best import read_best
from switch_t5.checkpoint.manager import CONFIG
from switch_t5.errors import DataError
from switch_t5.interop import detect, own
from switch_t5.interop.checkpoint import StoredCheckpoint
from switch_t5.metrics.writer import METRICS_FILE, read_metrics
from switch_t5.model.config import ModelConfig
from switch_t5.storage import files
from switch_t5.storage.location import Location

PAGE, DATA = "README.md", "model_card.json"
_EVALUATED = "eval/"


def card(source: StoredCheckpoint, model: ModelConfig, parameters: int) -> dict[str, Any]:
  """Returns what is known of a checkpoint, ready for JSON.

  Args:
    source: what is exported. Of a run of ours its folder is read too.
    model: its architecture.
    parameters: how many it has.
  """
  found: dict[str, Any] = {
    "architecture": {
      name: value for name, value in dataclasses.asdict(model).items() if _is_plain(value)
    },
    "parameters": parameters,
    "exported from": {"format": source.format, "step": source.step},
  }
  if source.format != own.FORMAT:
    return found
  model_dir = source.path.parent.parent
  if start := _start(model_dir, source.step):
    for name in ("teacher", "data", "versions", "devices", "mesh"):
      if name in start:
        found[name] = start[name]
  if scores := _scores(model_dir, source.step):
    found["scores"] = scores
  best = read_best(model_dir)
  if best is not None and best.step == source.step:
    found["best"] = best._asdict()
  config = source.path / CONFIG
  if files.is_file(config):
    found["settings"] = files.read(config).decode("utf-8", errors="replace")
  return found


def texts(found: Mapping[str, Any], kind: str) -> dict[str, str]:
  """Returns the card's files by name.

  Args:
    found: from `card`.
    kind: the format that is written; Hugging Face's page opens with its own front matter.
  """
  page = _page(found)
  if kind == detect.HUGGING_FACE:
    tag = "switch_transformers" if found["architecture"]["num_experts"] else "t5"
    page = f"---\nlibrary_name: transformers\ntags:\n- {tag}\n- switch_t5\n---\n\n{page}"
  return {PAGE: page, DATA: json.dumps(found, indent=2, default=str) + "\n"}


def _page(found: Mapping[str, Any]) -> str:
  experts = found["architecture"]["num_experts"]
  what = f"Switch Transformer with {experts} experts" if experts else "Dense T5 model"
  lines = [f"# {what}", "", f"{found['parameters']:,} parameters. Written by switch\\_t5."]
  for name, content in found.items():
    if isinstance(content, Mapping):
      lines += ["", f"## {name.capitalize()}", "", "| | |", "|---|---|"]
      for key, value in content.items():
        shown = value if isinstance(value, str) else json.dumps(value, default=str)
        lines.append(f"| {_as_code(key)} | {_as_code(shown)} |")
  if "devices" in found:
    lines += ["", f"Trained on {_as_code(found['devices'])}."]
  if "settings" in found:
    fence = "`" * max(3, _longest_fence(found["settings"]) + 1)
    lines += ["", "## Settings", "", f"{fence}gin", found["settings"].rstrip("\n"), fence]
  return "\n".join([*lines, ""])


def _as_code(text: str) -> str:
  """Returns a text as code on one line, in which Markdown and HTML mean nothing, fit for a table's cell."""
  plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text)).replace("|", r"\|")
  fence = "`" * (_longest_fence(plain) + 1)
  # A space at either end is not part of the code; without it backticks there would be of the fence.
  return f"{fence} {plain} {fence}" if "`" in plain else f"`{plain}`" if plain.strip() else ""


def _longest_fence(text: str) -> int:
  return max(map(len, re.findall("`+", text)), default=0)


def _start(model_dir: Location, step: int) -> dict[str, Any] | None:
  """Returns the start of the run that led to a step; None if the run's record does not say."""
  try:
    starts = json.loads(files.read(model_dir / "run.json"))["starts"]
    before = [start for start in starts if int(start["step"]) <= step]
    return dict(before[-1]) if before else None
  except (OSError, ValueError, KeyError, TypeError):
    return None


def _scores(model_dir: Location, step: int) -> dict[str, float]:
  """Returns the last evaluation up to a step, and the step that it is of."""
  try:
    rows = read_metrics(model_dir / METRICS_FILE)
  except (OSError, DataError):
    return {}
  for row in reversed(rows):
    scores = {name: value for name, value in row.items() if name.startswith(_EVALUATED)}
    if scores and row["step"] <= step:
      return {"step": row["step"]} | scores
  return {}


def _is_plain(value: Any) -> bool:
  return value is None or isinstance(value, str | int | float | tuple | list)
