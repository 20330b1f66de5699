# SPDX-License-Identifier: Apache-2.0
"""The mode `cache_teacher`: what it keeps is what the teacher says, and students learn the same of it."""

from __future__ import annotations

import functools
import itertools
import shutil
import signal

import jax
import numpy as np
import pytest
import runs
import stored
from tqdm import tqdm

from switch_t5 import batch
from switch_t5.checkpoint.initial import InitialParameters
from switch_t5.cli.cache_teacher import _answers
from switch_t5.cli.load import find, for_inference
from switch_t5.data.indexed import IndexedReader
from switch_t5.distill import teacher_cache
from switch_t5.distill.soft_targets import teacher_logits
from switch_t5.distill.teacher_cache import CachedTeacherReader, TeacherCache
from switch_t5.errors import Interrupted
from switch_t5.model.definition import define_model
from switch_t5.sharding.mesh import MeshShape, make_mesh
from switch_t5.training.interruption import Interruption
from switch_t5.training.state import abstract_params

DENSE = [
  "--gin.NUM_EXPERTS=0",
  "--gin.ModelConfig.num_encoder_sparse_layers=0",
  "--gin.ModelConfig.num_decoder_sparse_layers=0",
  "--gin.ModelConfig.sequences_per_group=None",
]
TAUGHT = [
  "--gin_bindings=train.distillation = @Distillation()",
  "--gin.Distillation.temperature=2.0",
  "--gin.cache_teacher.num_rows=20",
  "--gin.cache_teacher.top_k=16",
]
LENGTHS = {"inputs": 32, "targets": 16}
SHARD = 8

pytestmark = pytest.mark.smoke


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
  """Shards of 8 rows, so that a cache has several."""
  monkeypatch.setattr(teacher_cache, "_MOST_SHARD_ROWS", SHARD)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Holds a teacher in teacher/, and the data's cache in data/."""
  folder = tmp_path_factory.mktemp("cached")
  stored.write_run(folder / "teacher")
  return folder


def flags(folder, cache, *more, teacher=None, **macros) -> list[str]:
  """Returns the flags of a student of teacher/, with a cache of that name."""
  path = teacher or folder / "teacher"
  of_teacher = [
    f"--gin.Distillation.teacher_path={str(path)!r}",
    f"--gin.Distillation.teacher_cache={cache and str(folder / cache)!r}",
  ]
  given = {"MODEL_DIR": str(folder / "student")} | macros
  return [*runs.tiny_flags(folder, **given), *DENSE, *TAUGHT, *of_teacher, *more]


def cached(folder, name, *more, **macros) -> str:
  """Writes a cache; returns what was said."""
  code, output, errors = runs.run_here("cache_teacher", *flags(folder, name, *more, **macros))
  assert code == 0, output + errors
  return output


@pytest.fixture(scope="module")
def cache(folder):
  """The folder of a cache of 20 rows; not to be changed."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(teacher_cache, "_MOST_SHARD_ROWS", SHARD)
    (folder / "output.txt").write_text(cached(folder, "cache"))
  return folder / "cache"


def rows_of(folder, rows):
  """Returns the first rows of the training stream."""
  (data,) = (folder / "data").glob("text_span_corruption-*")
  reader = IndexedReader(data, "train", feature_lengths=LENGTHS, batch_size=rows, seed=0)
  return next(reader)


def test_it_keeps_the_greatest_probabilities_of_each_target(folder, cache):
  features = rows_of(folder, 20)
  found = find(folder / "teacher")
  definition = define_model(for_inference(found.config, "float32"))
  mesh = make_mesh(MeshShape())
  initial = InitialParameters(found.source, definition.shapes)
  params = initial.load(abstract_params(definition, mesh))
  with jax.set_mesh(mesh):
    said = jax.jit(functools.partial(teacher_logits, definition))(params, features)
  logits = np.asarray(said, np.float64)
  scaled = np.exp((logits[:, :8100] - logits.max(-1, keepdims=True)) / 2.0)
  probs = (scaled / scaled.sum(-1, keepdims=True)).reshape(20, 16, 8100)
  real = features[batch.DECODER_SEGMENT_IDS][..., None] > 0
  read = TeacherCache(cache).read(range(20))
  wanted = np.where(real, -np.sort(-probs)[..., :16], 0)
  np.testing.assert_allclose(read[batch.TEACHER_PROBS], wanted, rtol=1e-3, atol=1e-7)
  of_ids = np.take_along_axis(probs, read[batch.TEACHER_IDS], axis=-1)
  np.testing.assert_allclose(np.where(real, of_ids, 0), wanted, rtol=1e-3, atol=1e-7)
  assert not real.all() and not read[batch.TEACHER_IDS][~real[..., 0]].any()


def test_it_says_how_large_it_will_be_and_what_became_of_it(folder, cache):
  output = (folder / "output.txt").read_text()
  assert "20 rows of 16 targets, 16 ids (uint16) and probabilities (float16)" in output
  assert f"{20 * 16 * 16 * 4 / 1e6:.1f} MB" in output
  assert f"{cache} has all 20 rows." in output
  probs = TeacherCache(cache).read(range(20))[batch.TEACHER_PROBS].sum(-1)
  assert f"{probs[probs > 0].mean():.1%} of its probability" in output
  assert sum(path.stat().st_size for path in cache.glob("*.bin")) == 20 * 16 * 16 * 4


def test_batches_of_any_size_get_the_words_of_their_rows(folder, cache):
  (data,) = (folder / "data").glob("text_span_corruption-*")
  opened, wanted = TeacherCache(cache), TeacherCache(cache).read(range(20))
  for size, rows in ((5, [0, 1, 2, 3, 4]), (4, [1, 3])):
    rows = np.asarray(rows)
    reader = IndexedReader(
      data, "train", feature_lengths=LENGTHS, batch_size=size, seed=0, rows=rows
    )
    taught = CachedTeacherReader(reader, opened, rows)
    taught.restore({"rows_consumed": size})
    for number, features in enumerate(itertools.islice(taught, 20 // size - 1), start=1):
      for name in (batch.TEACHER_IDS, batch.TEACHER_PROBS):
        np.testing.assert_array_equal(features[name], wanted[name][number * size + rows])
      assert taught.state() == {"rows_consumed": (number + 1) * size}


def test_on_a_mesh_with_microbatches_and_other_batches_it_is_the_same(folder, cache):
  mesh = ["--gin.MESH_SHAPE=(2, 2, 2)", "--gin.NUM_MICROBATCHES=2"]
  sharded = ["--gin.Distillation.teacher_sharding='fsdp'"]
  cached(folder, "meshed", *mesh, *sharded, BATCH_SIZE=16)
  one, other = (TeacherCache(path).read(range(20)) for path in (cache, folder / "meshed"))
  np.testing.assert_allclose(
    other[batch.TEACHER_PROBS], one[batch.TEACHER_PROBS], rtol=2e-3, atol=1e-7
  )
  assert (other[batch.TEACHER_IDS] == one[batch.TEACHER_IDS]).mean() > 0.99


def test_jobs_share_it_and_what_is_there_is_left_alone(folder, cache):
  assert "not yet those of --job=0/2" in cached(folder, "shared", "--job=1/2")
  before = runs.snapshot(folder / "shared")
  assert "has all 20 rows" in cached(folder, "shared", "--job=0/2")
  after = runs.snapshot(folder / "shared")
  assert before.items() < after.items()
  assert "rows in" not in cached(folder, "shared")
  assert runs.snapshot(folder / "shared") == after
  one, other = (TeacherCache(path).read(range(20)) for path in (cache, folder / "shared"))
  np.testing.assert_array_equal(other[batch.TEACHER_PROBS], one[batch.TEACHER_PROBS])


def test_with_dry_run_it_only_says_what_it_would_do_for_all_rows_of_the_run(folder):
  flag = "--gin.cache_teacher.num_rows=None"
  assert " 80 rows" in cached(folder, "dry", "--dry_run", flag, TRAIN_STEPS=10, BATCH_SIZE=8)
  assert not (folder / "dry").exists()


@pytest.mark.parametrize(
  "more, said",
  [
    (["--gin.DatasetConfig.reader='streaming'"], "indexed reader"),
    (["--gin.cache_teacher.top_k=9000"], "8100 ids"),
    (["--gin.cache_teacher.top_k=0"], "cache_teacher.top_k"),
    (["--gin.cache_teacher.num_rows=0.5"], "cache_teacher.num_rows"),
    (["--gin.cache_teacher.probs_dtype='int8'"], "float16, float32"),
    (["--gin.cache_teacher.num_rows=1000000000000000"], "does not fit the disk"),
    (["--gin.Distillation.teacher_cache=None"], "TEACHER_CACHE"),
    (["--gin.Distillation.teacher_cache='hdfs://a/b'"], "hdfs://a/b"),
    (["--gin_bindings=train.distillation = None"], "TEACHER_PATH"),
  ],
)
def test_what_cannot_be_is_refused(folder, more, said):
  code, _, errors = runs.run_here("cache_teacher", *flags(folder, "refused", *more))
  assert code in (2, 3) and said in errors and "Traceback" not in errors, errors
  assert not (folder / "refused").exists()


def test_another_teacher_does_not_go_on_with_it(folder, cache, tmp_path):
  other = stored.checkpoint(stored.small(), adafactor=False, seed=1)
  stored.write_run(tmp_path / "other", other)
  given = flags(folder, "cache", teacher=tmp_path / "other")
  code, _, errors = runs.run_here("cache_teacher", *given)
  assert code == 3 and "teacher: " in errors
  # Nor does a run take the one for the other's.
  code, _, errors = runs.run_here("train", *given, "--gin.TRAIN_STEPS=2")
  assert code == 3 and "of another teacher" in errors
  shutil.copytree(folder / "teacher", tmp_path / "copy")
  code, output, _ = runs.run_here(
    "cache_teacher", *flags(folder, "cache", teacher=tmp_path / "copy")
  )
  assert code == 0 and "has all 20 rows" in output


@pytest.mark.parametrize(
  "more, said",
  [
    (["--gin.TRAIN_STEPS=3"], "cache_teacher.num_rows=24"),
    (["--gin.Distillation.temperature=1.0"], "temperature: 2.0, now 1.0"),
    (["--gin.SEED=5"], "data's seed: 0, now 5"),
    (["--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 17}"], "data's lengths"),
  ],
)
def test_a_run_that_the_cache_is_not_of_is_refused_before_anything_is_written(
  folder, cache, more, said
):
  given = flags(folder, "cache", *more, MODEL_DIR=str(folder / "new"), TRAIN_STEPS=2)
  code, _, errors = runs.run_here("train", *given)
  assert code == 3 and said in errors, errors
  assert not (folder / "new").exists()


def test_a_signal_ends_it_between_two_batches():
  with Interruption() as interruption:
    answers = _answers(lambda _, b: (b, b), None, iter([1, 2, 3]), interruption, tqdm(disable=True))
    assert next(answers) == (1, 1)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="SIGTERM"):
      next(answers)
