# SPDX-License-Identifier: Apache-2.0
"""`convert upcycle`: a dense checkpoint becomes one that a run of a Switch model starts from."""

from __future__ import annotations

import pytest
import runs
import stored

from switch_t5.cli import load

DENSE = stored.dense(vocab_size=8100, num_encoder_layers=1, num_decoder_layers=1)
TOP_TWO = ("num_selected_experts = 2", "renormalize_gates = True")


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
  """The folder of a dense run."""
  source = stored.checkpoint(DENSE, adafactor=False, step=7)
  return stored.write_run(tmp_path_factory.mktemp("dense") / "model", source)


def upcycle(dense, to, *flags):
  return runs.run_here("convert", "upcycle", f"--from={dense}", f"--to={to}", *flags)


def test_a_run_starts_from_it_and_it_says_what_became_of_the_experts(dense, tmp_path):
  code, output, errors = upcycle(dense, tmp_path / "sparse", f"--gin_file={runs.TINY}")
  assert code == 0, errors
  assert "becomes Model: Switch, 8 experts" in output
  assert "encoder: the 8 experts of layers 0 are copies, wo times 8 (the gates" in output
  assert (tmp_path / "sparse" / "checkpoints" / "checkpoint_7").is_dir()
  flags = runs.tiny_flags(
    tmp_path, MODEL_DIR=str(tmp_path / "new"), INITIAL_CHECKPOINT_PATH=str(tmp_path / "sparse")
  )
  code, output, errors = runs.run_here("train", "--dry_run", *flags)
  assert code == 0, errors


def test_it_is_asked_and_configured_with_the_router_that_it_was_made_for(dense, tmp_path):
  model = tmp_path / "model.gin"
  lines = ["include 'models/t5.gin'", "include 'models/switch.gin'", "NUM_EXPERTS = 4"]
  sizes = {"d_model": 16, "d_ff": 32, "d_kv": 4, "num_heads": 4, "vocab_size": 8100}
  for stack in ("encoder", "decoder"):
    sizes |= {f"num_{stack}_layers": 1, f"num_{stack}_sparse_layers": 1}
  lines += [f"ModelConfig.{name} = {value}" for name, value in sizes.items()]
  lines += ["ModelConfig.group_size = 64", *(f"RouterConfig.{option}" for option in TOP_TWO)]
  model.write_text("\n".join(lines))
  code, output, errors = upcycle(dense, tmp_path / "sparse", f"--gin_file={model}")
  assert code == 0, errors
  assert "wo as it is (the gates of a token add up to 1)" in output
  written = (tmp_path / "sparse" / "model.gin").read_text()
  for stack in ("encoder", "decoder"):
    assert all(f"{stack}/RouterConfig.{option}" in written for option in TOP_TWO)
  router = load.find(tmp_path / "sparse").config.encoder_router
  assert router.num_selected_experts == 2 and router.renormalize_gates


WRONG = {
  "no gin file": ([], "--gin_file is missing"),
  "a format": (["--gin_file=models/switch_demo.gin", "--format=t5x"], "takes no --format"),
  "other sizes": (["--gin_file=models/switch_base_8.gin"], "d_model 768, not 16"),
  "a misspelt name": ([f"--gin_file={runs.TINY}", "--gin.ModelConfig.d_mdl=3"], "d_model"),
  "a dense target": (["--gin_file=models/t5_base.gin"], "d_model 768, not 16"),
}


@pytest.mark.parametrize("flags, said", WRONG.values(), ids=WRONG)
def test_what_cannot_be_is_refused_before_anything_is_written(flags, said, dense, tmp_path):
  code, _, errors = upcycle(dense, tmp_path / "sparse", *flags)
  assert code == 2
  assert said in errors
  assert not (tmp_path / "sparse").exists()
