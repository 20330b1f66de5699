# SPDX-License-Identifier: Apache-2.0
"""A run uses the devices that were asked for, or says why not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from switch_t5.cli import platform
from switch_t5.errors import ConfigError, MeshError


def in_new_process(program, **environment):
  """Runs a program before whose start JAX has not looked for devices."""
  kept = {k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", "XLA_FLAGS")}
  return subprocess.run(
    [sys.executable, "-c", "from switch_t5.cli import platform\n" + program],
    env={**kept, **environment},
    capture_output=True,
    text=True,
    check=False,
  )


def test_devices_are_emulated_on_the_cpu():
  program = "platform.select(None, 4); platform.require('cpu'); import jax; print(jax.devices())"
  flags = "--xla_force_host_platform_device_count=2"
  done = in_new_process(program, XLA_FLAGS=flags)
  assert done.stdout.count("CpuDevice") == 4, done.stderr


@pytest.mark.parametrize("asked", ["cuda", "tpu", "nonsense"])
def test_an_accelerator_of_the_environment_that_is_not_there_is_an_error(asked):
  done = in_new_process("platform.select(None, None); platform.require(None)", JAX_PLATFORMS=asked)
  last = done.stderr[done.stderr.index("MeshError") :]
  assert {"cuda": "gpu"}.get(asked, asked) in last
  assert "--platform=cpu" in last


@pytest.mark.parametrize("asked", ["gpu", "tpu"])
def test_an_accelerator_of_the_command_line_that_is_not_there_is_an_error(asked):
  with pytest.raises(MeshError, match="--platform=cpu") as error:
    platform.require(asked)
  assert asked in str(error.value)


def test_emulation_is_refused_on_an_accelerator_of_the_environment(monkeypatch):
  monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
  with pytest.raises(ConfigError, match="--emulate_devices=8 on gpu"):
    platform.select(None, 8)


def test_a_visible_accelerator_that_jax_does_not_use_is_an_error(monkeypatch):
  monkeypatch.delenv("JAX_PLATFORMS")
  monkeypatch.setattr(platform, "visible_accelerators", lambda: [("gpu", "/dev/nvidia0")])
  with pytest.raises(MeshError, match=r"/dev/nvidia0(.|\n)*jax\[cuda12\]"):
    platform.require(None)
  platform.require("cpu")
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  platform.require(None)


@pytest.mark.parametrize(
  ("node", "expected"),
  [
    ("dev/nvidia0", [("gpu", "/dev/nvidia0")]),
    ("dev/nvidiactl", []),
    ("dev/kfd", [("gpu", "/dev/kfd")]),
    ("dev/accel0", [("tpu", "/dev/accel0")]),
    ("dev/vfio/0", [("tpu", "/dev/vfio/0")]),
    ("dev/vfio/vfio", []),
  ],
)
def test_device_nodes_tell_the_kind_of_accelerator(tmp_path, node, expected):
  (tmp_path / node).parent.mkdir(parents=True)
  (tmp_path / node).touch()
  assert platform.visible_accelerators(tmp_path) == expected
