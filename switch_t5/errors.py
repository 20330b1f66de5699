# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can act on: what happened, the value, the rule it breaks, and the remedy.

The command line prints them without a traceback and exits with `exit_code`.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class SwitchT5Error(Exception):
  """Base of all errors meant for the user.

  Args:
    what: one sentence: what is wrong.
    value: the offending value, as the user wrote it.
    rule: the rule that the value breaks.
    remedy: what to change, concretely.
  """

  exit_code = 2

  def __init__(
    self, what: str, *, value: object = None, rule: str | None = None, remedy: str | None = None
  ):
    self.what, self.value, self.rule, self.remedy = what, value, rule, remedy
    lines = [what]
    if value is not None:
      lines.append(f"  value:  {value}")
    if rule is not None:
      lines.append(f"  rule:   {rule}")
    if remedy is not None:
      lines.append(f"  remedy: {remedy}")
    # A value can be a name in a file of others: a terminal must not obey it.
    text = "\n".join(lines)
    shown = (c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    super().__init__("".join(shown))


class ConfigError(SwitchT5Error):
  """A command line, gin file or parameter that cannot be run."""


class MeshError(ConfigError):
  """A mesh, batch or model dimension that does not divide, or devices that are not there."""


class DataError(SwitchT5Error):
  """Data that is missing, empty, malformed or does not match the model."""

  exit_code = 3


class CheckpointError(SwitchT5Error):
  """A checkpoint that is missing, damaged, of another shape or cannot be written."""

  exit_code = 3


class StorageError(SwitchT5Error):
  """An object store that refuses, or that failed too often."""

  exit_code = 3


class DivergedError(SwitchT5Error):
  """The loss is not finite."""

  exit_code = 4


class Interrupted(SwitchT5Error):
  """A signal stopped the run after its state was saved; the same command goes on."""

  exit_code = 75


class PeerLostError(SwitchT5Error):
  """Another process of the run died, stands still, or never came; run all again."""

  exit_code = 76


@contextlib.contextmanager
def memory_for(what: str, *, value: object, remedy: str) -> Iterator[None]:
  """Turns XLA's word that something does not fit the memory into a ConfigError.

  Args:
    what: is compiled or run, the subject of the error's sentence.
    value: its size, as the user knows it.
    remedy: what makes it smaller.

  Raises:
    ConfigError: if the memory of a device is too small, when compiling or when running.
  """
  try:
    yield
  except RuntimeError as error:  # jax.errors.JaxRuntimeError, without importing JAX
    reason = str(error)
    if "RESOURCE_EXHAUSTED" not in reason:
      raise
    raise ConfigError(
      f"{what} does not fit the memory of a device.",
      value=value,
      rule=next(line for line in reason.splitlines() if "RESOURCE_EXHAUSTED" in line)[:200],
      remedy=remedy,
    ) from error


def suggest(name: str, known: Iterable[str]) -> str:
  """Returns `Did you mean ...?` with the closest of `known`, or the known names if none is close."""
  known = sorted(known)
  close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
  if close:
    return f"Did you mean {' or '.join(close)}?"
  return f"Known: {', '.join(known)}."
