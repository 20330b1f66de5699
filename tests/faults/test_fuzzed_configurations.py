# SPDX-License-Identifier: Apache-2.0
"""Gin files changed at random, and hostile ones: no import, no program, no file but those included."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator

import pytest
import runs

from switch_t5.cli import gin_setup
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.errors import SwitchT5Error

CHANGES = 600
_FORBIDDEN = {"import", "os.system", "os.exec", "os.posix_spawn", "os.putenv", "subprocess.Popen"}
_FORBIDDEN |= {"socket.connect", "exec", "os.remove", "os.rename", "os.mkdir", "shutil.rmtree"}
HOSTILE = (
  "import os",
  "import os.path as train",
  "from os import system",
  "from __gin__ import dynamic_registration",
  "x/os.system.command = 'touch /tmp/was_here'",
  "train.loss = @x/os.system()",
  "train.loss = @os.system()",
  "train.loss = @__import__('os').system('true')",
  "train.model_dir = __import__('os').getcwd()",
  "train.model_dir = eval('1')",
  "train.model_dir = (lambda: 1)()",
  "train.model_dir = [x for x in ().__class__.__base__.__subclasses__()]",
  "train.model_dir = f'{open}'",
  "TRAIN_STEPS = 9**9**9",
  "TRAIN_STEPS = 1 if True else 2",
  "include '/etc/passwd'",
  "include '../../../../etc/passwd'",
  "include 'models/../../../etc/passwd'",
  "train.__class__ = 1",
  "train.__init__.__globals__ = 1",
  "gin.REQUIRED = 1",
  "train.model_dir = '''\n" * 3,
  "train.x = " + "[" * 5000,
  "train.x = " + "-" * 5000 + "1",
  "TRAIN_STEPS = " + "9" * 10000,
  "\x00",
  "train.model_dir = '\udcff'",
)

_watched: list[str] | None = None


def _hook(event: str, arguments: tuple) -> None:
  if _watched is None:
    return
  if event in _FORBIDDEN:
    _watched.append(f"{event} {arguments[:2]}")
  if event == "open" and arguments[1] is not None and set(str(arguments[1])) & set("wax+"):
    _watched.append(f"open {arguments[:2]}")
  if event == "open" and "passwd" in str(arguments[0]):
    _watched.append(f"open {arguments[0]}")


sys.addaudithook(_hook)  # there is no way to remove one


@contextlib.contextmanager
def nothing_done() -> Iterator[None]:
  """Asserts that nothing was imported, run, connected to or written."""
  global _watched
  _watched = done = []
  try:
    yield
  finally:
    _watched = None
  assert done == []


def read(folder, text: str) -> str:
  """Reads a configuration and calls what it says; returns what was refused, "" if nothing was."""
  (folder / "given.gin").write_text(text, errors="surrogateescape")
  bindings = ["MODEL_DIR = 'm'", f"TEXT_FILES = {str(runs.TEXT)!r}"]
  with nothing_done():
    try:
      gin_setup.load([str(folder / "given.gin")], bindings, [], CONFIGURABLES).call("train")
    except SwitchT5Error as error:
      return str(error)
  return ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Holds what a good configuration has loaded: from here on nothing more is imported."""
  folder = tmp_path_factory.mktemp("configurations")
  assert read_once(folder)
  return folder


def read_once(folder) -> bool:
  text = runs.TINY.read_text()
  (folder / "given.gin").write_text(text)
  bindings = ["MODEL_DIR = 'm'", f"TEXT_FILES = {str(runs.TEXT)!r}"]
  gin_setup.load([str(folder / "given.gin")], bindings, [], CONFIGURABLES).call("train")
  for refused in ("import os", "x y", "train.x = [", "train.loss = @os.system()", "A = 9**9"):
    with contextlib.suppress(SwitchT5Error):
      (folder / "given.gin").write_text(refused)
      gin_setup.load([str(folder / "given.gin")], bindings, [], CONFIGURABLES)
  return True


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_hostile_line_is_refused_and_does_nothing(folder, number):
  assert read(folder, f"{runs.TINY.read_text()}\n{HOSTILE[number]}\n")


def test_a_configuration_changed_at_random_is_read_or_refused_and_does_nothing(folder):
  at_random, text = random.Random(0), runs.TINY.read_text()
  refused = 0
  for _ in range(CHANGES):
    refused += bool(read(folder, _changed(text, at_random)))
  assert CHANGES / 4 < refused < CHANGES


def _changed(text: str, at_random: random.Random) -> str:
  """Returns the text with one to three places changed."""
  for _ in range(at_random.randint(1, 3)):
    at = at_random.randrange(len(text))
    lines = text.splitlines(keepends=True)
    match at_random.randrange(5):
      case 0:
        text = text[:at] + text[at + at_random.randint(1, 20) :]
      case 1:
        text = text[:at] + at_random.choice("@%()[]{}'\"\\\n\t=#.,:/*-0aé\x00\u2028") + text[at:]
      case 2:
        text = (
          text[:at] + at_random.choice(["import os\n", "@", "None", "1e999", "()", "'"]) + text[at:]
        )
      case 3:
        at_random.shuffle(lines)
        text = "".join(lines)
      case _:
        line = at_random.choice(lines)
        text = text.replace(line, line * at_random.choice([0, 2]), 1)
    text = text or "\n"
  return text
