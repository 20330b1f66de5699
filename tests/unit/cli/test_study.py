# SPDX-License-Identifier: Apache-2.0
"""The runs of a study: what each is told, what is refused, and the table of runs that are done."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import runs

from switch_t5.cli import gin_setup, main, study
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.flags import parse
from switch_t5.cli.study_runs import Pace, StudyRuns
from switch_t5.data.vocabulary import embedded_vocabulary_path
from switch_t5.errors import ConfigError
from switch_t5.sharding.mesh import MeshShape
from switch_t5.studies.distill import ARMS
from switch_t5.studies.family import SIZES

TEST = ("study", "distill", "--size=test")


def planned(*argv, seeds=(0,)):
  """Returns what `train` is told by the commands that --dry_run prints for some seeds, by folder."""
  code, output, errors = runs.run_here(*argv, "--dry_run")
  assert code == 0, errors
  configs: dict = {}
  for line in output.splitlines()[1:]:
    if not any(f"seed{seed}" in line for seed in seeds):
      continue
    words = shlex.split(line)
    assert words[:2] == ["switch_t5", "train"]
    loaded = gin_setup.load_command_line(parse(words[1:]), CONFIGURABLES, "train")
    config = loaded.call("train")
    configs[config.model_dir.rpartition("/")[2]] = config
  return configs


@pytest.mark.parametrize("size", SIZES)
def test_the_arms_of_a_seed_differ_in_nothing_but_what_they_compare(size):
  vocabulary = f"--gin.VOCABULARY_PATH='{embedded_vocabulary_path()}'"
  configs = planned("study", "distill", f"--size={size}", *([vocabulary] if size == "pod" else []))
  dense, teacher = configs["dense_seed0"], configs["teacher_seed0"]
  for name, config in configs.items():
    assert (config.seed, config.dataset.seed) == (0, 0)
    config.checked_model(MeshShape.parse(config.mesh_shape))
    assert config.model == (teacher if name.startswith("teacher") else dense).model
    assert config.dataset == dense.dataset
    for same in ("total_steps", "eval_period", "eval_steps", "loss", "num_microbatches"):
      assert getattr(config, same) == getattr(dense, same)
    assert config.learning_rate(500) == dense.learning_rate(500)
  assert teacher.model.num_experts > 1 and dense.model.num_experts == 0
  for same in ("d_model", "d_ff", "num_encoder_layers", "num_decoder_layers", "num_heads"):
    assert getattr(teacher.model, same) == getattr(dense.model, same)


def test_each_student_learns_from_the_teacher_of_its_seed_by_its_own_means():
  configs = planned(*TEST, "--to=mine", seeds=(1,))
  for arm in ARMS:
    config = configs[f"{arm.name}_seed1"]
    start = config.initial_checkpoint
    if arm.starts_from_teacher:
      assert (start.path, start.as_teacher) == ("mine/teacher_seed1", "fresh")
    else:
      assert start.path is None
    if arm.fraction_soft is None:
      assert config.distillation is None
    else:
      assert config.distillation.teacher_path == "mine/teacher_seed1"
      assert config.distillation.fraction_soft == arm.fraction_soft
      assert config.distillation.temperature == 1.0


def test_more_seeds_and_fewer_steps_are_taken():
  code, output, errors = runs.run_here(*TEST, "--dry_run", "--seeds=4", "--gin.TRAIN_STEPS=7")
  assert code == 0, errors
  assert output.count("TRAIN_STEPS=7") == output.count("switch_t5 train") == 4 * len(ARMS)
  (config,) = [c for name, c in planned(*TEST, seeds=(1,)).items() if name == "dense_seed1"]
  assert (config.seed, config.dataset.seed) == (1, 1)


@pytest.mark.parametrize(
  ("argv", "said"),
  [
    (["study"], "takes the name of a study"),
    (["study", "distil"], "Did you mean distill?"),
    ([*TEST[:2], "--size=labtop"], "Did you mean laptop?"),
    ([*TEST, "--seeds=1"], "seeds"),
    (["study", "capcity"], "Did you mean capacity?"),
    (["study", "scaling", "--gin.NUM_EXPERTS=4"], "sets this macro itself"),
    ([*TEST, "--gin.SEED=4"], "sets this macro itself"),
    ([*TEST, "--gin.BATCH_SIZ=4"], "BATCH_SIZE"),
    (["train", "--seeds=3"], "Only for: study"),
  ],
)
def test_a_wrong_command_is_explained(argv, said):
  code, _, errors = runs.run_here(*argv)
  assert code == 2 and said in errors


def test_a_study_is_one_process():
  with pytest.raises(ConfigError, match="in one process"):
    study.run(parse([*TEST, "--coordinator_address=here:1"]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", study.FAMILIES)
def test_the_arms_of_a_study_differ_in_nothing_but_what_they_compare(name, size):
  family = study.FAMILIES[name]
  vocabulary = f"--gin.VOCABULARY_PATH='{embedded_vocabulary_path()}'"
  command = parse(["study", name, *([vocabulary] if size == "pod" else [])])
  made = StudyRuns(command, family, size, Path("study"), 2)
  for config in made.configs.values():
    config.checked_model(MeshShape.parse(config.mesh_shape))
  lines = {arm: set(text.splitlines()) for arm, text in made.settings.items()}
  for arm in family.arms:
    differing = lines[arm.name] ^ lines[family.base]
    names = {line.partition(" = ")[0] for line in differing if " = " in line}
    if arm.model == family.arm(family.base).model and not arm.paths:
      bound = {text.partition(" = ")[0] for text in arm.bindings}
      bound |= {text.partition(" = ")[0] for text in family.arm(family.base).bindings}
      assert names <= bound | {"MODEL_DIR"}, arm.name
    assert "TRAIN_STEPS" not in names and "TASK_FEATURE_LENGTHS" not in names
  assert len({arm.name for arm in family.arms}) == len(family.arms)
  for arm in family.arms:
    assert arm.timed_as is None or family.arm(arm.timed_as).timed_as is None


def test_scaling_has_equal_flops_per_token_in_all_its_arms():
  made = StudyRuns(
    parse(["study", "scaling"]), study.FAMILIES["scaling"], "laptop", Path("study"), 3
  )
  assert len({found["flops_per_sequence"] for found in made.facts.values()}) == 1
  assert made.facts["experts16"]["encoder_group"] == 512


@pytest.fixture
def done(tmp_path):
  """A folder with all runs of a study of two seeds, as training leaves them."""
  pytest.importorskip("matplotlib")
  by_arm = {arm.name: 5.0 - 0.1 * index for index, arm in enumerate(ARMS)}
  for arm in ARMS:
    for seed in range(2):
      folder = tmp_path / f"{arm.name}_seed{seed}"
      (folder / "checkpoints" / "checkpoint_20").mkdir(parents=True)
      cross_entropy = by_arm[arm.name] + 0.001 * seed * (arm.name != "dense")
      row = {"step": 20, "eval/embedded_span_corruption/cross_entropy": cross_entropy}
      (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
      data = {"seed": seed} | ({"teacher": "a hash"} if arm.fraction_soft is not None else {})
      (folder / "run.json").write_text(json.dumps({"starts": [{"data": data}]}))
  return tmp_path


def test_runs_that_are_done_are_not_trained_again_and_make_the_table(done):
  code, output, errors = runs.run_here(*TEST, f"--to={done}")
  assert code == 0, errors
  assert "12 runs, 0 to do" in output
  assert "| teacher: Switch | -1.444 |  | -4.9005 |" in output
  found = json.loads((done / "distill.json").read_text())
  assert found["qualities"]["dense"] == [-5.0, -5.0]
  assert found["arms"]["teacher"]["gain"]["estimate"] == pytest.approx(0.0995)
  assert found["arms"]["distilled"]["share"]["estimate"] == pytest.approx(0.1995 / 0.0995)
  assert (done / "distill.md").read_text().count("| ") > 20
  assert (done / "distill.png").stat().st_size > 1000


def test_a_folder_of_other_settings_is_refused_and_left_as_it_is(done):
  assert runs.run_here(*TEST, f"--to={done}")[0] == 0
  before = runs.snapshot(done)
  code, _, errors = runs.run_here(*TEST, f"--to={done}", "--gin.BATCH_SIZE=4")
  assert code == 2 and "other settings" in errors and "BATCH_SIZE" in errors.upper()
  assert runs.snapshot(done) == before


def test_a_folder_of_another_study_is_refused(done):
  assert runs.run_here(*TEST, f"--to={done}")[0] == 0
  code, _, errors = runs.run_here("study", "balance", "--size=test", f"--to={done}")
  assert code == 2 and "distill, not balance" in errors


def test_a_torn_line_of_metrics_is_passed_over_and_a_faulty_one_is_named(done):
  metrics = done / "dense_seed0" / "metrics.jsonl"
  whole = metrics.read_text()
  metrics.write_text(whole + '{"step": 20, "eval/embedded')
  assert runs.run_here(*TEST, f"--to={done}")[0] == 0
  metrics.write_text("no json\n" + whole)
  code, _, errors = runs.run_here(*TEST, f"--to={done}")
  assert code == 3 and "Line 1 of" in errors


def test_a_seed_of_which_a_run_diverged_is_left_out_and_said_to_be(done):
  (done / "dense_seed1" / "diverged.txt").write_text("The loss is not finite.\n")
  (done / "dense_seed1" / "metrics.jsonl").write_text("")
  code, _, errors = runs.run_here(*TEST, f"--to={done}")
  assert code == 3 and "dense of seed 1" in errors


def test_runs_of_a_seed_that_read_other_rows_are_not_compared(done):
  record = {"starts": [{"data": {"seed": 0, "source": "another"}}]}
  (done / "mixed_from_teacher_seed0" / "run.json").write_text(json.dumps(record))
  code, _, errors = runs.run_here(*TEST, f"--to={done}")
  assert code == 3 and "mixed_from_teacher_seed0" in errors


def test_the_picture_s_library_is_asked_for_before_anything_is_trained(tmp_path, monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  code = main.main([*TEST, f"--to={tmp_path / 'study'}"])
  assert code == 2 and not (tmp_path / "study").exists()


def test_what_is_left_is_reckoned_with_the_steps_done_and_programs_compiled_once(tmp_path):
  made = StudyRuns(
    parse(["study", "balance", "--size=test"]), study.FAMILIES["balance"], "test", tmp_path, 2
  )
  (tmp_path / "alpha0_seed0" / "checkpoints" / "checkpoint_4").mkdir(parents=True)
  paces = {"alpha0": Pace(step=1.0, around=10.0, compilation=100.0)}
  # 8 runs of 6 steps, of which 4 are done; three arms have no program yet.
  assert made._seconds(paces, made.plan, 6, {"alpha0"}) == 8 * 16 - 4 + 3 * 100


def test_a_run_that_went_on_is_done_up_to_where_it_was_evaluated(tmp_path):
  family = study.FAMILIES["balance"]
  made = StudyRuns(parse(["study", "balance", "--size=test"]), family, "test", tmp_path, 2)
  path = made.path(made.plan[0])
  rows = [
    {"step": step, "eval/embedded_span_corruption/cross_entropy": 9.0 - step} for step in (3, 6)
  ]
  path.mkdir()
  (path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
  assert not made.is_done(made.plan[0], 3)  # evaluated, and never saved
  (path / "checkpoints" / "checkpoint_6").mkdir(parents=True)
  assert made.is_done(made.plan[0], 3) and made.is_done(made.plan[0], 6)
  assert not made.is_done(made.plan[0], 12)
  assert made.read(made.plan[0], 3).metrics["step"] == [(3, 3)]
