# SPDX-License-Identifier: Apache-2.0
"""What the pages tell people to type, and what becomes of each command where the pages are checked.

`tests/docs/run_pages.py` runs the commands, `tests/configs/test_documentation.py` holds that each of
them is either run or listed here with the reason why not.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import shlex
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[1]
PAGES = (
  ROOT / "README.md",
  ROOT / "CONTRIBUTING.md",
  ROOT / "docs" / "pods.md",
  ROOT / "docs" / "routers.md",
  *sorted((ROOT / "docs" / "guides").glob("*.md")),
)
_CI = ".ci/run does it"
# Commands that are not run, as the page has them without comments, and why.
NOT_RUN = {
  "bash scripts/test.sh": _CI,
  "bash scripts/check.sh": _CI,
  "PYTHON=python3.11 bash scripts/test.sh -m smoke": _CI,
  "bash scripts/check_docs.sh": "it is what runs here",
  "switch_t5 generate --from=runs/first": "it waits for what is typed",
}
# Programs and scripts that are not run, and what they want that is not here. (Slurm was: its page's end.)
NOT_HERE = {
  "sbatch": "Slurm",
  "scancel": "Slurm",
  "docker": "a daemon of Docker",
  "kubectl": "a cluster of Kubernetes",
  "export": "it is for the commands of the launcher after it",
  "scripts/launch/gpu_node.sh": "GPUs",
  "scripts/launch/tpu_vm.sh": "a project of Google Cloud",
  "scripts/launch/gke/launch.sh": "a cluster of Kubernetes",
}
# What the other commands begin with. Each is run as it stands, or as `shortened` has it.
RUN = (
  "bash scripts/pretrain_demo.sh ",
  "bash scripts/test.sh tests/unit/",
  "cat ",
  "printf ",
  "python -c ",
  "source .venv-",
  *(
    f"switch_t5 {mode} "
    for mode in (
      *("train", "eval", "cache", "config", "checkpoint", "convert", "cache_teacher"),
      *("generate", "score", "infer", "plan", "study", "report"),
    )
  ),
)
# What stands for something of the reader's own, and what it is here.
STAND_INS = {
  "gs://mine/": "mine/",
  "models/NAME.gin": "models/switch_base_8.gin",
  "vocab_size=16000": "vocab_size=500",
  "TRAIN_STEPS=4000": "TRAIN_STEPS=40",
  "checkpoint_4000": "checkpoint_40",
}
STEPS = 20
# Later files win: a model and a batch that take seconds, with all that makes a Switch Transformer.
SHORT_RUN_FILE = "short_run.gin"
SHORT_RUN = """\
ModelConfig.d_model = 32
ModelConfig.d_ff = 64
ModelConfig.d_kv = 8
ModelConfig.num_heads = 4
ModelConfig.num_encoder_layers = 1
ModelConfig.num_decoder_layers = 1
ModelConfig.num_encoder_sparse_layers = 1
ModelConfig.num_decoder_sparse_layers = 1
ModelConfig.group_size = None
ModelConfig.sequences_per_group = 1
ModelConfig.activation_dtype = 'float32'
TASK_FEATURE_LENGTHS = {'inputs': 32, 'targets': 16}
BATCH_SIZE = 8
MESH_SHAPE = (1, 1, 1)
train.eval_steps = 2
"""
# After it, where a recipe trains a dense student.
SHORT_STUDENT_FILE = "short_student.gin"
SHORT_STUDENT = """\
ModelConfig.num_encoder_sparse_layers = 0
ModelConfig.num_decoder_sparse_layers = 0
ModelConfig.sequences_per_group = None
"""


@dataclasses.dataclass(frozen=True)
class Command:
  """One command of a page.

  Attributes:
    page: the file.
    line: of its first word, from 1.
    text: as it is typed, over several lines where the page has several, without comments.
  """

  page: pathlib.Path
  line: int
  text: str

  @property
  def place(self) -> str:
    """Returns `docs/guides/x.md:12`."""
    return f"{self.page.relative_to(ROOT)}:{self.line}"

  @property
  def words(self) -> list[str]:
    """Returns what the shell makes of it."""
    return shlex.split(self.text.replace("\\\n", " "))

  def not_run_because(self) -> str | None:
    """Returns why it is not run; None if it is."""
    return NOT_RUN.get(self.text) or NOT_HERE.get(self.program)

  @property
  def program(self) -> str:
    """Returns what is started: the first word that sets no variable; of `bash SCRIPT` the script."""
    words = [word for word in self.words if not re.match(r"[A-Z_0-9]+=", word)]
    return words[1] if words[0] == "bash" else words[0]

  def is_run(self) -> bool:
    """Returns whether it is run; neither this nor listed is a mistake in a page or here."""
    return self.not_run_because() is None and any(map(self.begins, RUN))

  def begins(self, words: str) -> bool:
    """Returns whether it begins with these words."""
    return f"{self.text} ".startswith(words)

  def shortened(self) -> str:
    """Returns what is run in its place: stand-ins for the reader's own, a few steps of a tiny model."""
    text = with_stand_ins(self.text)
    demo = self.begins("bash scripts/pretrain_demo.sh ")
    # A teacher's cache is of the rows of the run that comes after it.
    modes = ("train", "cache_teacher", "convert upcycle")
    trains = any(self.begins(f"switch_t5 {mode} ") for mode in modes)
    if demo or (trains and "--dry_run" not in text):
      text += f" --gin_file={SHORT_RUN_FILE}"
      if "recipes/distill" in text:
        text += f" --gin_file={SHORT_STUDENT_FILE}"
      # The demo's own steps are kept: what follows names its checkpoints.
      if not demo and "TRAIN_STEPS" not in text:
        text += f" --gin.TRAIN_STEPS={STEPS}"
    return text


def with_stand_ins(text: str) -> str:
  """Returns a command with the stand-ins for what is the reader's own."""
  for word, stand_in in STAND_INS.items():
    text = text.replace(word, stand_in)
  return text


def commands(page: pathlib.Path) -> Iterator[Command]:
  """Yields the commands of a page's shell blocks, in order."""
  for first, block in _blocks(page, "bash|sh"):
    waiting, start = "", first
    for number, line in enumerate(block.splitlines(), start=first):
      start = start if waiting else number
      waiting += f"{line}\n"
      if not line.endswith("\\") and _is_complete(waiting):
        if shlex.split(waiting, comments=True):
          yield Command(page, start, _without_comment(waiting).strip())
        waiting = ""
    if waiting:
      raise ValueError(f"{page}:{start}: the command does not end: {waiting}")


def files(page: pathlib.Path) -> dict[str, str]:
  """Returns the files that a page writes out: Python and gin blocks that open with `# NAME.py`."""
  blocks = (block for _, block in _blocks(page, "python|gin"))
  named = ((re.match(r"# (\w+\.(?:py|gin))\n", block), block) for block in blocks)
  return {match[1]: block for match, block in named if match}


def _blocks(page: pathlib.Path, languages: str) -> Iterator[tuple[int, str]]:
  """Yields the number of the first line and the text of each fenced block in these languages."""
  text = page.read_text(encoding="utf-8")
  for match in re.finditer(rf"^```(?:{languages})\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
    yield text.count("\n", 0, match.start(1)) + 1, match[1]


def _is_complete(text: str) -> bool:
  try:
    shlex.split(text, comments=True)
  except ValueError:  # a quotation that goes on in the next line
    return False
  return True


def _without_comment(text: str) -> str:
  """Returns the command without a comment behind it; comments inside quotations are kept."""
  for match in re.finditer(r"(^|\s)#[^\n]*\n$", text):
    if _is_complete(text[: match.start()]):
      return text[: match.start()]
  return text
