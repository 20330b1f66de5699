# SPDX-License-Identifier: Apache-2.0
"""Topologies: how they are spelt, which are refused with which remedy, and the devices of some."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import jax
import pytest

from switch_t5.errors import ConfigError
from switch_t5.planning import topology
from switch_t5.planning.chips import CHIPS

NO_GPU_COMPILER = importlib.util.find_spec("jax_cuda12_plugin") is None


@pytest.mark.smoke
@pytest.mark.parametrize(
  ("text", "devices", "slices"),
  [
    ("v5p:8x8x8", 512, 1),
    ("v5e:16x16*2", 512, 2),
    ("v3:4x4", 32, 1),  # two devices a chip
    ("v4:2x2x1", 4, 1),
    ("tpu7x:2x2x1", 8, 1),
    ("h100:4", 4, 1),
    ("h100:64", 64, 8),  # nodes of eight
    ("cpu:64", 64, 1),
  ],
)
def test_devices_are_counted_as_jax_counts_them(text, devices, slices):
  parsed = topology.parse(text)
  assert (parsed.text, parsed.devices, parsed.slices) == (text, devices, slices)
  assert parsed.chip == CHIPS[text.partition(":")[0]]


@pytest.mark.parametrize(
  ("text", "says"),
  [
    ("v5x:4x4", "v5"),
    ("v5litepod-16", "v5litepod-16 is v5e:4x4,"),
    ("v5p-128", "v5p-128 is v5p:4x4x4,"),
    ("v4-8", "v4-8 is v4:2x2x1,"),
    ("v5p", "e.g. v5p:4x4x4"),
    ("h100:x", "e.g. h100:64"),
    ("cpu:0", "e.g. cpu:64"),
    ("v5p:4x4", "v5p:2x2x4"),
    ("v5e:4x4x4", "v5e:8x8"),
    ("v5e:32x32", "v5e:SHAPE*SLICES"),
    ("v5e:0x4", "positive"),
    ("v5e:4x4*0", "positive"),
    ("h100:12", "h100:16"),
    ("h100:8x8", "h100:64"),
    ("h100:8*8", "a number of devices"),
    ("v5e:4x4*", "CHIP:SHAPE"),
    ("", "CHIP:SHAPE"),
  ],
)
def test_what_cannot_be_is_refused_with_what_can(text, says):
  with pytest.raises(ConfigError) as error:
    topology.parse(text)
  assert says in str(error.value) and error.value.value is not None


def test_cpu_devices_are_those_that_jax_started_with():
  assert topology.devices(topology.parse("cpu:4")) == jax.devices()[:4]
  with pytest.raises(ConfigError, match="--emulate_devices=64"):
    topology.devices(topology.parse("cpu:64"))


@pytest.mark.skipif(not NO_GPU_COMPILER, reason="the compiler for GPUs is installed")
def test_without_the_compiler_for_gpus_the_error_says_how_to_install_it():
  with pytest.raises(ConfigError, match=r"pip install --no-deps jax-cuda12-plugin==\d"):
    topology.prepare(topology.parse("h100:8"))


@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is not None, reason="the compiler for TPUs is installed"
)
def test_without_the_compiler_for_tpus_the_error_says_how_to_install_it():
  with pytest.raises(ConfigError, match=r"pip install 'switch_t5\[plan\]'"):
    topology.prepare(topology.parse("v5e:2x2"))


def printed(program: str) -> str:
  """What a program prints that prepares a topology; its process is its own, as JAX reads it once."""
  environment = {k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", "XLA_FLAGS")}
  command = [sys.executable, "-c", f"from switch_t5.planning.topology import *\n{program}"]
  done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
  assert done.stderr == ""
  return done.stdout


def test_planned_tpus_come_in_slices_that_only_data_crosses():
  pytest.importorskip("libtpu")
  program = """
from switch_t5.sharding.mesh import MeshShape, make_mesh, slice_of
for text in ("v5e:4x4*2", "v4:2x2x1", "tpu7x:2x2x1"):
  topology = parse(text)
  prepare(topology)
  found = devices(topology)
  assert len(found) == topology.devices, text
  assert len(set(map(slice_of, found))) == topology.slices, text
mesh = make_mesh(MeshShape(4, 8, 1), devices(parse("v5e:4x4*2")))
print([sorted({slice_of(d) for d in row.ravel()}) for row in mesh.devices])
try: devices(parse("v5e:3x5"))
except ConfigError as error: print(error)
"""
  rows, error = printed(program).split("\n", 1)
  assert rows == "[[0], [0], [1], [1]]"
  assert "hosts of 2x2 chips" in error


@pytest.mark.skipif(NO_GPU_COMPILER, reason="needs the compiler for GPUs")
@pytest.mark.parametrize("name", ["a100", "h100", "h200", "b200"])
def test_planned_gpus_come_in_nodes_that_only_data_crosses(name):
  program = f"""
from switch_t5.sharding.mesh import MeshShape, make_mesh, slice_of
topology = parse("{name}:16")
prepare(topology)
mesh = make_mesh(MeshShape(4, 4, 1), devices(topology))
print([sorted({{slice_of(d) for d in row.ravel()}}) for row in mesh.devices])
"""
  assert printed(program) == "[[0], [0], [1], [1]]\n"
