# SPDX-License-Identifier: Apache-2.0
"""The mode `plan`: what it says of the paper's models, what it compiles, and what it refuses."""

from __future__ import annotations

import json

import pytest
import runs

from switch_t5.planning import topology

DRY = ("--dry_run", "--json")


def planned(*argv, code=0):
  """Returns the JSON of a plan, and what it said beside."""
  found, output, errors = runs.run_here("plan", *argv)
  assert found == code, errors
  return json.loads(output), errors


@pytest.mark.parametrize(
  ("recipe", "devices", "parameters", "forward"),
  [
    # Table 9 prints 124 B, 425 B, 6.3 T and, of a Switch-C with 32 heads, 890 B.
    ("base", "v5p:2x4x4", 7.415e9, 124.6e9),
    ("large", "v5p:4x4x8", 26.3e9, 424.9e9),
    ("xxl", "v5p:8x8x16", 394.7e9, 6.26e12),
    ("c", "v5p:8x8x16", 1.571e12, 869e9),
  ],
)
def test_the_papers_models_are_planned_from_their_recipes_alone(
  recipe, devices, parameters, forward
):
  plan, said = planned(
    f"--gin_file=recipes/pretrain_switch_{recipe}.gin", f"--topology={devices}", *DRY
  )
  assert said == ""  # the mesh of the recipe is of so many devices
  assert plan["work"]["parameters"] == pytest.approx(parameters, rel=1e-3)
  assert plan["flops"]["forward_per_row"] == pytest.approx(forward, rel=2e-3)
  assert plan["memory"]["fits"] and not plan["memory"]["exact"]
  assert plan["candidates"][0]["fits"]
  # What the committed plan says beside the compiler's part.
  committed = json.loads((runs.ROOT / "docs" / "plans" / f"switch_{recipe}.json").read_text())
  for part in ("work", "place", "bounds", "dropped", "checkpoint_bytes"):
    assert committed[part] == plan[part], part
  for name in ("forward_per_row", "model"):
    assert committed["flops"][name] == plan["flops"][name]
  assert committed["memory"]["exact"] and committed["memory"]["fits"]
  assert committed["memory"]["total"] == pytest.approx(plan["memory"]["total"], rel=0.3)


def test_a_mesh_of_other_devices_gives_way_to_the_best_of_those_there_are():
  recipe = "--gin_file=recipes/pretrain_switch_base.gin"
  plan, said = planned(recipe, "--topology=v5e:4x4", *DRY)
  assert "MESH_SHAPE = (1, 32, 1) is of 32 devices, v5e:4x4 has 16" in said
  mesh = plan["place"]["mesh"]
  assert mesh["data"] * mesh["expert"] * mesh["model"] == 16


def test_what_does_not_fit_says_by_how_much_and_what_to_change():
  recipe = "--gin_file=recipes/pretrain_switch_xxl.gin"
  code, output, _ = runs.run_here("plan", recipe, "--topology=v5e:8x8", "--dry_run")
  assert code == 1
  assert output.startswith("Does not fit")
  assert "too little" in output


def test_a_teacher_and_a_checkpoint_may_be_gin_files_of_models_that_are_not_trained_yet():
  student = ["--gin_file=models/t5_base.gin", "--gin_file=recipes/distill_pretrained.gin"]
  given = ["--gin.TEACHER_PATH='models/switch_base_32.gin'", "--gin.MESH_SHAPE=(1,4,1)"]
  plan, _ = planned(*student, *given, "--gin.BATCH_SIZE=64", "--topology=v5p:2x2x1", *DRY)
  assert plan["work"]["step"] == "distill"
  checkpoint = "--gin.CHECKPOINT_PATH='models/switch_base_32.gin'"
  plan, _ = planned(
    "--gin_file=recipes/infer.gin",
    checkpoint,
    "--gin.INPUT_FILE='texts.txt'",
    "--gin.MESH_SHAPE=(1,4,1)",
    "--topology=v5p:2x2x1",
    *DRY,
  )
  assert plan["work"]["step"] == "infer"
  assert "gradients" not in plan["memory"]["kinds"]


@pytest.mark.parametrize(
  ("argv", "said"),
  [
    ([], "--topology=v5p:8x8x8"),
    (["--topology=v9:4x4"], "v5p"),
    (["--topology=v5litepod-16"], "v5e:4x4"),
    (["--topology=v5p"], "CHIP:SHAPE"),
    (["--topology=cpu:7"], "No mesh of these devices divides"),
  ],
)
def test_a_topology_that_is_none_is_explained(argv, said):
  recipe = "--gin_file=recipes/pretrain_switch_base.gin"
  code, _, errors = runs.run_here("plan", recipe, *argv, "--dry_run")
  assert code == 2 and said in errors


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_compiled(tmp_path):
  (tmp_path / "file").write_text("")
  tiny = runs.tiny_flags(tmp_path)
  code, _, errors = runs.run_here("plan", *tiny, "--topology=cpu:1", f"--to={tmp_path / 'file'}")
  assert code == 2 and "File exists" in errors and "Compiling" not in errors


def test_without_libtpu_it_says_how_to_get_it(monkeypatch):
  monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
  recipe = "--gin_file=recipes/pretrain_switch_base.gin"
  code, _, errors = runs.run_here("plan", recipe, "--topology=v5p:2x4x4")
  assert code == 2 and "pip install 'switch_t5[plan]'" in errors


def test_the_step_is_compiled_and_its_plan_is_a_page(tmp_path):
  tiny = runs.tiny_flags(tmp_path, MESH_SHAPE=(1, 2, 1))
  plan, _ = planned(*tiny, "--topology=cpu:2", f"--to={tmp_path / 'plan'}", "--json")
  assert plan["memory"]["exact"] and plan["compile_seconds"] > 0
  sent = [c for c in plan["collectives"] if c["kind"] == "all-to-all"]
  least = [c for c in plan["bounds"] if c["kind"] == "all-to-all"]
  assert sum(c["total"] for c in sent) == sum(c["total"] for c in least) > 0
  assert json.loads((tmp_path / "plan" / "plan.json").read_text()) == plan
  page = (tmp_path / "plan" / "plan.html").read_text()
  assert page.startswith("<!DOCTYPE html>") and "all-to-all" in page
