# SPDX-License-Identifier: Apache-2.0
"""The command line as a user meets it: help, modes, flags, exit codes, and no traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

from switch_t5.cli import main as command
from switch_t5.cli.flags import parse
from switch_t5.errors import ConfigError


def run(capsys, *argv):
  """Returns the exit code, standard output and standard error of a command line."""
  code = command.main(argv)
  captured = capsys.readouterr()
  return code, captured.out, captured.err


@pytest.mark.smoke
def test_help_lists_every_mode_with_a_line(capsys):
  code, out, _ = run(capsys, "--help")
  assert code == 0
  for name, mode in command.MODES.items():
    assert any(line.split()[:1] == [name] and mode.summary in line for line in out.splitlines())
  assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize(
  ("argv", "named", "fix"),
  [
    ([], "No mode", "train, eval, cache, config, checkpoint"),
    (["trian"], "trian", "Did you mean train?"),
    (["train", "--gin_fle=x"], "--gin_fle", "Did you mean --gin_file?"),
    (["train", "--platform=xpu"], "xpu", "cpu|gpu|tpu"),
    (["train", "--emulate_devices=0"], "0", "positive"),
    (["train", "--emulate_devices=8", "--platform=gpu"], "8", "--platform=cpu"),
    (["train", "--gin.MODEL_DIR", "x"], "--gin.MODEL_DIR", "--gin.MODEL_DIR=VALUE"),
    (["train", "recipes/x.gin"], "recipes/x.gin", "takes flags only"),
    (["train", "--json"], "--json", "config, checkpoint"),
    (["train", "--job=0/2"], "--job", "Only for: cache"),
    *(
      (["cache", f"--job={value}"], value, "--job=0/8")
      for value in ("8/8", "9/8", "3", "-1/8", "0/0", "1/2/3", "a/b", "\u0663/8", " 1/8", "0")
    ),
    (["config", "--import=no_such_module"], "no_such_module", "my_tasks for my_tasks.py"),
  ],
)
def test_a_mistake_is_one_clear_error(capsys, tmp_path, monkeypatch, argv, named, fix):
  monkeypatch.chdir(tmp_path)
  code, out, err = run(capsys, *argv)
  assert (code, out) == (2, "")
  assert err.startswith("switch_t5: ")
  assert named in err and fix in err
  assert "Traceback" not in err
  assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(capsys):
  code, _, err = run(capsys, "trian", "--debug")
  assert code == 2
  assert "Traceback" in err and "Did you mean train?" in err


def test_gin_bindings_are_rewritten_in_their_order():
  command_line = parse(["train", "--gin.A='x=y'", "--gin_bindings=B = 1", "--gin.a/f.x=(1, 2)"])
  assert command_line.gin_bindings == ("A = 'x=y'", "B = 1", "a/f.x = (1, 2)")


def test_flags_and_arguments_come_in_any_order():
  command_line = parse(
    ["--gin_file=a.gin", "checkpoint", "ls", "--gin_search_paths=a,b", "out", "--nodry_run"]
  )
  assert command_line.arguments == ("checkpoint", "ls", "out")
  assert command_line.gin_files == ("a.gin",)
  assert command_line.gin_search_paths == ("a", "b")
  assert not command_line.dry_run


def test_an_unknown_flag_is_refused_by_the_parser_itself():
  with pytest.raises(ConfigError, match="--emulate_devices"):
    parse(["train", "--emulate_device=8"])


def test_an_interrupt_outside_training_exits_as_shells_report_it(capsys, tmp_path, monkeypatch):
  (tmp_path / "interrupting_tasks.py").write_text("raise KeyboardInterrupt\n")
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", list(sys.path))
  code, _, err = run(capsys, "config", "--import=interrupting_tasks")
  assert (code, err) == (130, "switch_t5: interrupted\n")


@pytest.mark.smoke
def test_help_loads_neither_jax_nor_gin():
  program = (
    "import sys; from switch_t5.cli.main import main; main(['--help']);"
    "print(sorted({'jax', 'gin', 'tensorflow', 'seqio'} & sys.modules.keys()))"
  )
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
  assert done.stdout.splitlines()[-1] == "[]"


def test_after_an_error_the_program_leaves_at_once_with_its_code_whatever_threads_are_at_work():
  program = (
    "import threading, time; from switch_t5.cli import main;"
    "threading.Thread(target=time.sleep, args=(600,)).start();"
    "main.main = lambda: print('said') or 3; main.command()"
  )
  ended = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
  )
  assert (ended.returncode, ended.stdout) == (3, "said\n"), ended.stderr
