# SPDX-License-Identifier: Apache-2.0
"""What became of a changed checkpoint: whether it was refused, and if not, what was read."""

from __future__ import annotations

import ctypes
import os
import pathlib
import random
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.fuzzing.mutation import BYTES, DATABASE, FILES, Mutation, mutate
from benchmarks.fuzzing.pristine import BAIT, SEALED_AGAIN, Variant
from switch_t5.errors import SwitchT5Error
from switch_t5.interop import detect
from switch_t5.interop.checkpoint import PARAM_STATES, STEP
from switch_t5.interop.convert import model_of
from switch_t5.interop.own_names import optimizer_obstacle, stack_adafactor, stack_parameters

REFUSED, EQUAL, ONE, ANOTHER, FAULT = "refused", "equal", "one array", "another", "fault"
MAX_MEGABYTES = 1000
_MAX_MESSAGE = 10_000
_ARRAY = re.compile(r"\b(encoder|decoder|token_embedder)[/.]")
_FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "subprocess.Popen", "socket.connect")

Contents = dict[str, tuple[tuple[int, ...], np.dtype, bytes]]


class Verdict(NamedTuple):
  """What became of one change.

  Attributes:
    outcome: REFUSED, EQUAL, ONE, ANOTHER or FAULT.
    mutation: what was done.
    detail: the first line of the refusal, what changed, or the fault.
    seconds: of opening and reading.
    megabytes: that memory grew by.
  """

  outcome: str
  mutation: Mutation
  detail: str
  seconds: float
  megabytes: float


class _Reading(NamedTuple):
  """What was read.

  Attributes:
    contents: all arrays that can be read.
    refusals: why others cannot.
    obstacle: why a run would leave the optimizer's state aside, "" if it would not.
  """

  contents: Contents
  refusals: list[SwitchT5Error]
  obstacle: str


class Judge:
  """Changes copies of checkpoints and reads them, in a folder of its own.

  Args:
    folder: for the copies; nothing else may appear there.
  """

  def __init__(self, folder: pathlib.Path):
    self._folder, self._copy = folder, folder / "copy"
    self._pristine: dict[pathlib.Path, Contents] = {}
    self._bait: tuple[str, ...] = ()
    self._broken: list[str] = []
    sys.addaudithook(self._listen)

  def judge(
    self, variant: Variant, rng: random.Random, begun: Callable[[Mutation], None]
  ) -> Verdict:
    """Makes one change and returns what became of it.

    Args:
      variant: what is copied.
      rng: what to do.
      begun: told of the change before anything is read.
    """
    if variant.path not in self._pristine:
      whole = _read(variant.path)
      if whole.refusals:
        raise ValueError(f"{variant.path} is not whole: {whole.refusals[0]}")
      self._pristine[variant.path] = whole.contents
    path = self._copy / variant.path.name
    shutil.copytree(variant.path, path)
    mutation = mutate(rng, variant, path)
    begun(mutation)
    before = self._surroundings(variant)
    self._bait, self._broken = (str(variant.bait.parent.parent),), []
    base, started = _reset_peak(), time.perf_counter()
    outcome, detail = self._outcome(variant, mutation, path)
    seconds, megabytes = time.perf_counter() - started, (_peak() - base) / 1e6
    self._bait = ()
    if self._surroundings(variant) != before:
      self._broken.append("there is something new outside")
    if megabytes > MAX_MEGABYTES:
      self._broken.append(f"{megabytes:.0f} MB")
    if self._broken:
      outcome, detail = FAULT, f"{'; '.join(self._broken)}; {outcome}: {detail}"
    shutil.rmtree(self._copy)
    return Verdict(outcome, mutation, detail, seconds, megabytes)

  def _outcome(self, variant: Variant, mutation: Mutation, path: pathlib.Path) -> tuple[str, str]:
    pristine = self._pristine[variant.path]
    try:
      found = _read(path)
      if found.refusals:
        raise found.refusals[0]
    except SwitchT5Error as error:
      wrong = _find_fault_of_message(str(error), path)
      return (FAULT, wrong) if wrong else (REFUSED, str(error))
    except BaseException:
      return FAULT, traceback.format_exc()
    return _compare(found, pristine, variant, mutation)

  def _surroundings(self, variant: Variant) -> Any:
    """Returns what there is beside the copy, and when folders of the bait were last changed."""
    folders = [variant.bait.parent.parent, *variant.bait.parent.parent.iterdir()]
    return sorted(os.listdir(self._folder)), [os.stat(folder).st_mtime_ns for folder in folders]

  def _listen(self, event: str, arguments: tuple[Any, ...]) -> None:
    """Hears of what Python opens and runs."""
    if not self._bait:
      return
    if event in _FORBIDDEN:
      self._broken.append(event)
    elif event == "open" and str(arguments[0]).startswith(self._bait):
      self._broken.append(f"{arguments[0]} was opened")


def _read(path: pathlib.Path) -> _Reading:
  """Reads a checkpoint, after it was looked at as a conversion does: what it would be with us."""
  checkpoint = detect.open_checkpoint(path)
  _ = checkpoint.step
  config = model_of(checkpoint)
  stack_parameters(checkpoint, config)
  stack_adafactor(checkpoint, config)
  if any(not note.isprintable() for note in checkpoint.notes):
    raise AssertionError(f"notes are not printable: {checkpoint.notes}")
  contents: Contents = {}
  refusals = []
  for name, array in checkpoint.arrays.items():
    try:
      values = array.read()
    except SwitchT5Error as error:
      refusals.append(error)
      continue
    if (values.shape, values.dtype) != (array.shape, array.dtype):
      raise AssertionError(f"{name} is {values.dtype}{values.shape}, and was said to be {array}")
    contents[name] = (array.shape, array.dtype, values.tobytes())
  return _Reading(contents, refusals, optimizer_obstacle(checkpoint))


def _compare(
  reading: _Reading, pristine: Contents, variant: Variant, mutation: Mutation
) -> tuple[str, str]:
  """Returns the outcome for arrays that were all read."""
  found = reading.contents
  differing = sorted(
    name for name in found.keys() | pristine.keys() if found.get(name) != pristine.get(name)
  )
  said = f"{len(differing)} differ: {', '.join(differing[:3])}"
  for name in differing:
    if name in found and _is_bait(found[name]):
      return FAULT, f"{name} was read from outside the folder"
  if not differing:
    if variant.form == "sealed" and mutation.group == BYTES:
      return FAULT, "bytes of ours were changed, and it was not refused"
    return EQUAL, ""
  if lie := _find_lie(found, pristine, bool(reading.obstacle)):
    return FAULT, lie
  if _has_checksum(variant, mutation):
    return FAULT, f"behind a checksum, {said}"
  both = found.keys() & pristine.keys()
  same_kinds = all(n in both and found[n][:2] == pristine[n][:2] for n in differing)
  if len(differing) == 1 and same_kinds:
    return ONE, said
  if mutation.kind in ("flip a bit", "set a byte") and mutation.group == BYTES and same_kinds:
    return FAULT, f"one byte was changed, {said}"
  return ANOTHER, f"{said}. {reading.obstacle}"


def _find_lie(found: Contents, pristine: Contents, is_state_left: bool) -> str:
  """Returns what was accepted though nothing supports it; "" if it is a checkpoint of its own.

  Args:
    found: what was read.
    pristine: what was there.
    is_state_left: whether the optimizer's state is left aside, with the reason: then it may be any.
  """
  for name in sorted(found.keys() ^ pristine.keys()):
    if name != STEP and not (is_state_left and name.startswith("state/")):
      return f"{name} is {'new' if name in found else 'missing'}"
  for name in sorted(found.keys() & pristine.keys()):
    (shape, dtype, _), (old_shape, old_dtype, _) = found[name], pristine[name]
    if is_state_left and name.startswith(PARAM_STATES):
      continue
    if shape != old_shape:
      return f"{name} has shape {shape}, and had {old_shape}"
    if name != STEP and dtype != old_dtype and dtype.itemsize != old_dtype.itemsize:
      return f"{name} is {dtype}, and was {old_dtype}"
  return ""


def _has_checksum(variant: Variant, mutation: Mutation) -> bool:
  """Returns whether the bytes that were changed have a checksum over them."""
  if mutation.group in (FILES, DATABASE):
    return False
  if variant.format == detect.OWN:
    return variant.form != SEALED_AGAIN
  # gzip has one; zstd, as TensorStore writes it, has none.
  return variant.form == "native" and "/" in mutation.file and mutation.group == BYTES


def _is_bait(content: tuple[tuple[int, ...], np.dtype, bytes]) -> bool:
  _, dtype, values = content
  return bool(np.all(np.frombuffer(values, dtype) == np.asarray(BAIT, dtype)))


def _find_fault_of_message(message: str, path: pathlib.Path) -> str:
  """Returns what is wrong with a refusal; "" if it is short, printable and says where."""
  if len(message) > _MAX_MESSAGE:
    return f"a message of {len(message):,} characters: {message[:300]}"
  if not all(character.isprintable() or character == "\n" for character in message):
    return f"a message that is not printable: {message!r}"
  if str(path) not in message and not _ARRAY.search(message):
    return f"a message that says not where: {message}"
  return ""


def _reset_peak() -> int:
  """Returns the bytes in memory now, from which the peak counts anew."""
  ctypes.CDLL(None).malloc_trim(0)  # else what was freed before is there to be used again
  pathlib.Path("/proc/self/clear_refs").write_text("5")
  return _status("VmRSS")


def _peak() -> int:
  return _status("VmHWM")


def _status(field: str) -> int:
  for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    if line.startswith(f"{field}:"):
      return int(line.split()[1]) * 1024
  raise ValueError(field)
