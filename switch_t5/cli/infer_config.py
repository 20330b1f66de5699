# SPDX-License-Identifier: Apache-2.0
"""What `switch_t5 infer` is told, and how it, `generate` and `score` open their checkpoint."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from switch_t5.decoding.config import DecodingConfig
from switch_t5.errors import ConfigError
from switch_t5.sharding.mesh import MeshShape
from switch_t5.storage.location import location

if TYPE_CHECKING:
  from switch_t5.cli.load import FoundModel
  from switch_t5.inference.text_model import TextModel

AT_ONCE = 8  # texts of `infer` for each device, if BATCH_SIZE is None
_DTYPES = (None, "float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class LoadConfig:
  """A checkpoint of any format that `convert` knows, as a model that is asked.

  Attributes:
    path: CHECKPOINT_PATH or --from: the checkpoint, or a run's folder, whose newest one is meant.
    vocabulary_path: VOCABULARY_PATH or --vocabulary_path: a SentencePiece model; None: the one that a
      run's configuration names, or that lies beside the checkpoint.
    batch_size: BATCH_SIZE, texts that are worked through at a time; None: 8 of a file or a pipe, 1 of
      what is typed, for each device along data x expert.
    mesh_shape: MESH_SHAPE, devices along (data, expert, model).
    dtype: of the activations, "float32" or "bfloat16"; None: as the run was trained, and float32 for
      other checkpoints.
  """

  path: str
  vocabulary_path: str | None = None
  batch_size: int | None = None
  mesh_shape: tuple[int, int, int] = (1, 1, 1)
  dtype: str | None = None

  def __post_init__(self):
    _check(_is_path(self.path), "LoadConfig.path", self.path, "a path in quotes: 'runs/mine'")
    for path in (self.path, self.vocabulary_path):
      location(path or "")  # which refuses other stores
    size = self.batch_size
    counts = size is None or (isinstance(size, int) and not isinstance(size, bool) and size > 0)
    _check(counts, "LoadConfig.batch_size", size, "None or a whole number, at least 1")
    _check(self.dtype in _DTYPES, "LoadConfig.dtype", self.dtype, '"float32", "bfloat16" or None')

  def find(self) -> FoundModel:
    """Finds the checkpoint and its vocabulary; reads no array yet."""
    from switch_t5.cli.load import find  # which reads configurations, and so knows this class

    return find(self.path, self.vocabulary_path)

  def rows(self, at_once: int) -> int:
    """Returns the batch size; `at_once` for each device along data x expert if it is not given."""
    return self.batch_size or at_once * MeshShape.parse(self.mesh_shape).batch_shards

  def load(self, found: FoundModel, *, at_once: int) -> TextModel:
    """Reads its arrays.

    Args:
      found: what `find` returned.
      at_once: batch size for each device along data x expert, if `batch_size` is None.
    """
    return found.load(batch_size=self.rows(at_once), mesh_shape=self.mesh_shape, dtype=self.dtype)


@dataclasses.dataclass(frozen=True)
class InferConfig:
  """Answers the texts of a file, or of a split of a task.

  Attributes:
    model: a LoadConfig.
    output_file: OUTPUT_FILE, which gets a JSON object a line; what is found there is gone on with. In a
      bucket the lines are parts beside it until all are there.
    task_feature_lengths: TASK_FEATURE_LENGTHS: {"inputs": S}: longer inputs are cut, and counted;
      "targets" also for tasks whose steps depend on it.
    input_file: INPUT_FILE: a text on each line; of a .jsonl file, an object with the key "inputs";
      also .gz.
    mixture_or_task_name: MIXTURE_OR_TASK_NAME, in place of a file: a task or mixture of
      `switch_t5.data.downstream`, or of seqio's registries, which a module given as --import adds to.
    split: SPLIT of the task.
    decoding: a DecodingConfig.
    task_data_dir: TASK_DATA_DIR, folder of data sets' published files.
    tfds_data_dir: TFDS_DATA_DIR, folder or bucket of the data sets that TFDS has prepared; None:
      TFDS's default.
  """

  model: LoadConfig
  output_file: str
  task_feature_lengths: dict[str, int]
  input_file: str | None = None
  mixture_or_task_name: str | None = None
  split: str = "validation"
  decoding: DecodingConfig = DecodingConfig()  # noqa: RUF009 - frozen
  task_data_dir: str | None = None
  tfds_data_dir: str | None = None

  def __post_init__(self):
    for name, kind in (("model", LoadConfig), ("decoding", DecodingConfig)):
      value = getattr(self, name)
      _check(isinstance(value, kind), f"infer.{name}", value, f"@{kind.__name__}()")
    _check(
      _is_path(self.output_file), "OUTPUT_FILE", self.output_file, "a path in quotes: 'out.jsonl'"
    )
    for path in (self.output_file, self.input_file, self.task_data_dir, self.tfds_data_dir):
      location(path or "")  # which refuses other stores
    if (self.input_file is None) == (self.mixture_or_task_name is None):
      raise ConfigError(
        "There is not one source of texts.",
        value=f"INPUT_FILE = {self.input_file!r}, MIXTURE_OR_TASK_NAME = {self.mixture_or_task_name!r}",
        rule="one of the two is set",
        remedy="--gin.INPUT_FILE=\"'texts.txt'\", or --gin.MIXTURE_OR_TASK_NAME=\"'super_glue_boolq_v102'\"",
      )
    lengths = self.task_feature_lengths
    known = isinstance(lengths, dict) and {"inputs"} <= set(lengths) <= {"inputs", "targets"}
    whole = known and all(type(n) is int and n > 0 for n in lengths.values())
    if not whole:
      raise ConfigError(
        "TASK_FEATURE_LENGTHS is not valid.",
        value=lengths,
        rule="a length in tokens for inputs, and one for targets where a task needs it",
        remedy='TASK_FEATURE_LENGTHS = {"inputs": 512}',
      )


def _is_path(value: object) -> bool:
  return isinstance(value, str) and bool(value.strip())


def _check(holds: bool, name: str, value: object, rule: str) -> None:
  if not holds:
    raise ConfigError(f"{name} is not valid.", value=repr(value), rule=f"it is {rule}")
