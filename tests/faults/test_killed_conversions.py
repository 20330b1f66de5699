# SPDX-License-Identifier: Apache-2.0
"""A conversion that is killed leaves nothing that looks complete, and the same command goes through."""

from __future__ import annotations

import pathlib
import signal
import time

import pytest
import runs
import stored

from switch_t5.errors import CheckpointError
from switch_t5.interop import convert, detect

# Large enough to be met while it is written.
MODEL = stored.switch(
  d_model=256, d_ff=1024, num_experts=16, num_encoder_layers=2, num_encoder_sparse_layers=1
)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> pathlib.Path:
  checkpoint = stored.checkpoint(MODEL)
  folder = tmp_path_factory.mktemp("source")
  return convert.export_checkpoint(checkpoint, "safetensors", folder / "a", stored.ignore)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["switch_t5", "t5x", "huggingface"])
def test_kill_9_leaves_nothing_that_looks_complete(kind, source, tmp_path):
  to = tmp_path / "to"
  action = ["import"] if kind == "switch_t5" else ["export", f"--format={kind}"]
  argv = ["convert", *action, f"--from={source}", f"--to={to}"]
  with runs.start(*argv) as process:
    deadline = time.monotonic() + runs.TIMEOUT
    while not arrays_in(tmp_path):
      assert process.poll() is None, process.communicate()[0]
      assert time.monotonic() < deadline
      time.sleep(0.001)
    process.kill()
  assert process.returncode == -signal.SIGKILL, "it was done before it was killed"
  with pytest.raises(CheckpointError):
    detect.open_checkpoint(to)
  code, output, errors = runs.run_here(*argv)
  assert code == 0, output + errors
  wanted = stored.checkpoint(MODEL)
  found = detect.open_checkpoint(to)
  if kind == "huggingface":
    assert found.parameters().keys() == wanted.parameters().keys()
  else:
    stored.assert_same(found, wanted)
  left = [
    path.name for path in to.parent.rglob("*") if "unfinished" in path.name or "tmp" in path.name
  ]
  assert left == []


def arrays_in(folder: pathlib.Path) -> bool:
  """Whether arrays are being written somewhere below."""
  try:
    return any(path.is_file() and path.stat().st_size > 1000 for path in folder.rglob("*"))
  except OSError:  # renamed under our eyes
    return True
