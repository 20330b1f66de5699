# SPDX-License-Identifier: Apache-2.0
"""scripts/launch/, with stand-ins for the schedulers' commands that note how they were called."""

from __future__ import annotations

import os
import pathlib
import shlex
import subprocess
import sys

import pytest
import runs

LAUNCH = runs.ROOT / "scripts" / "launch"
SCRIPTS = sorted(LAUNCH.rglob("*.sh"))
# Notes its name and arguments, one call a line, and ends with the code in a file of its name.
STAND_IN = """\
#!/usr/bin/env bash
name=$(basename "$0")
echo "$name${*@Q}" | sed "s/^$name/&: /" >> "$CALLS"
if [ -n "${JAX_LOCAL_DEVICE_IDS:-}" ]; then echo "devices: $JAX_LOCAL_DEVICE_IDS" >> "$CALLS"; fi
case " $* " in *describe*) echo ACTIVE ;; esac
exit "$(cat "$CALLS.$name" 2>/dev/null || echo 0)"
"""
FLAGS = ["--gin_file=a.gin", "--gin.MODEL_DIR='gs://mine/run 1'", "--gin.X={'a': (1, 2)}"]


@pytest.fixture
def world(tmp_path, monkeypatch):
  """Puts the stand-ins first on the path; returns a function (command name, exit code)."""
  commands = ("switch_t5", "srun", "scontrol", "gcloud", "kubectl")
  for name in commands:
    (tmp_path / name).write_text(STAND_IN)
    (tmp_path / name).chmod(0o755)
  monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
  monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
  for name in ("TOPOLOGY", "JAX_LOCAL_DEVICE_IDS"):
    monkeypatch.delenv(name, raising=False)
  return lambda name, code: (tmp_path / f"calls.{name}").write_text(str(code))


def run(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
  return subprocess.run(
    ["bash", str(LAUNCH / script), *arguments],
    cwd=runs.ROOT,
    env=os.environ | {"RESTART_PAUSE": "0", "RESTART_LIMIT": "2"} | variables,
    capture_output=True,
    text=True,
    timeout=60,
  )


def calls(tmp_path: pathlib.Path) -> list[list[str]]:
  file = tmp_path / "calls"
  return [shlex.split(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_tells_how_it_is_used(script: pathlib.Path):
  shown = run(str(script), "--help")
  assert shown.returncode == 0
  assert f"scripts/launch/{script.relative_to(LAUNCH)}" in shown.stdout
  assert run(str(script)).returncode == 2


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: pathlib.Path):
  shellcheck = pathlib.Path(sys.executable).with_name("shellcheck")
  checked = subprocess.run([shellcheck, script], capture_output=True, text=True)
  assert checked.returncode == 0, checked.stdout


def on_slurm(world, *, tasks: int, nodes: int, **variables: str):
  given = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": str(tasks), "SLURM_NNODES": str(nodes)}
  return run("slurm.sh", *FLAGS, **given, **variables)


def test_a_slurm_job_trains_with_the_flags_as_they_were_given(world, tmp_path):
  assert on_slurm(world, tasks=2, nodes=2).returncode == 0
  (srun,) = calls(tmp_path)
  assert srun[0] == "srun:"
  assert srun[2:] == ["switch_t5", "train", "--coordinator_address=auto", *FLAGS]


def test_a_process_has_all_gpus_of_its_node_unless_each_gpu_has_one(world, tmp_path):
  on_slurm(world, tasks=2, nodes=2, SLURM_GPUS_ON_NODE="4")
  on_slurm(world, tasks=8, nodes=2, SLURM_GPUS_ON_NODE="4")
  assert [call[0] for call in calls(tmp_path)] == ["srun:", "devices:", "srun:"]
  assert calls(tmp_path)[1] == ["devices:", "0,1,2,3"]


def test_a_slurm_job_that_was_stopped_is_queued_again(world, tmp_path):
  world("srun", 75)
  assert on_slurm(world, tasks=2, nodes=2).returncode == 75
  assert [call[0] for call in calls(tmp_path)] == ["srun:", "scontrol:"]
  assert calls(tmp_path)[1] == ["scontrol:", "requeue", "7"]


def test_a_slurm_job_that_lost_a_peer_starts_all_its_processes_again(world, tmp_path):
  world("srun", 76)
  assert on_slurm(world, tasks=2, nodes=2).returncode == 76
  assert [call[0] for call in calls(tmp_path)] == ["srun:", "srun:"]


@pytest.mark.parametrize(
  ("script", "variables"),
  [
    ("slurm.sh", {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_NNODES": "2"}),
    ("slurm_cache.sh", {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}),
    ("gpu_node.sh", {}),
    ("tpu_vm.sh start", {}),
    (
      "gke/launch.sh gpu",
      {"NAME": "a", "IMAGE": "b", "ACCELERATOR": "c", "HOSTS": "2", "CHIPS": "8"},
    ),
  ],
)
def test_a_topology_is_planned_for_first_and_what_does_not_fit_is_not_started(
  world, tmp_path, script, variables
):
  name, *step = script.split()
  world("switch_t5", 1)
  assert run(name, *step, *FLAGS, TOPOLOGY="h100:16", **variables).returncode == 1
  plan = ["switch_t5:", "plan", "--dry_run", "--topology=h100:16", *FLAGS]
  assert calls(tmp_path) == [plan]


def test_a_job_of_an_array_writes_its_part_of_the_cache(world, tmp_path):
  array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}
  assert run("slurm_cache.sh", *FLAGS, **array).returncode == 0
  again = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "1", "JOBS": "8"}
  assert run("slurm_cache.sh", *FLAGS, **again).returncode == 0
  assert calls(tmp_path) == [["switch_t5:", "cache", "--job=3/8", *FLAGS]] * 2


def test_a_node_of_gpus_trains_on_gpus_or_not_at_all(world, tmp_path):
  assert run("gpu_node.sh", *FLAGS).returncode == 0
  assert calls(tmp_path) == [["switch_t5:", "train", "--platform=gpu", *FLAGS]]


def test_a_dry_run_on_tpus_prints_the_commands_and_runs_none(world, tmp_path):
  given = {"NAME": "big", "ZONE": "z-a", "TYPE": "v6e-256", "SLICES": "2", "OPTIONS": "--reserved"}
  shown = run("tpu_vm.sh", "--dry_run", "keep", *FLAGS, **given)
  assert shown.returncode == 0
  assert calls(tmp_path) == []
  commands = [shlex.split(line) for line in shown.stdout.splitlines()]
  assert all(c[:4] == ["gcloud", "compute", "tpus", "queued-resources"] for c in commands)
  assert all(c[-1] == "--zone=z-a" for c in commands)
  assert [c[4] for c in commands] == ["create", "describe", "scp", "ssh", "ssh", "ssh", "ssh"]
  nodes = ["--node-count=2", "--node-prefix=big"]
  kind = ["--accelerator-type=v6e-256", "--runtime-version=v2-alpha-tpuv6e"]
  assert commands[0][5:-1] == ["big", *nodes, *kind, "--reserved"]


@pytest.mark.parametrize(
  ("kind", "version"),
  [("v5p-128", "v2-alpha-tpuv5"), ("v5litepod-64", "v2-alpha-tpuv5-lite")],
)
def test_one_slice_is_one_node_with_the_runtime_of_its_generation(world, kind, version):
  shown = run("tpu_vm.sh", "--dry_run", "create", TYPE=kind)
  create = shlex.split(shown.stdout.splitlines()[0])
  assert {"--node-id=switch-t5", f"--runtime-version={version}"} <= set(create)


def test_workers_get_the_flags_as_they_were_given_and_can_be_stopped(world, tmp_path):
  assert run("tpu_vm.sh", "start", *FLAGS).returncode == 0
  ((*_, command, _zone),) = calls(tmp_path)
  home = tmp_path / "home"
  (home / "switch_t5" / "scripts").mkdir(parents=True)
  (home / "switch_t5" / "scripts" / "launch").symlink_to(LAUNCH)
  (tmp_path / "calls").unlink()
  text = command.removeprefix("--command=")
  subprocess.run(["bash", "-c", f"{text}; wait"], cwd=home, check=True, timeout=60)
  train = ["switch_t5:", "train", "--platform=tpu", "--coordinator_address=auto", *FLAGS]
  assert calls(tmp_path) == [train]
  assert int((home / "switch_t5" / "train.pid").read_text()) > 0
