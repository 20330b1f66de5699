# SPDX-License-Identifier: Apache-2.0
"""What the pages tell people to type is understood, and the list of configurables is today's."""

from __future__ import annotations

import pathlib
import re
import shlex

import pytest
import runs

from switch_t5.cli import flags, gin_setup
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.main import MODES
from switch_t5.cli.show_config import listing

PAGES = [runs.ROOT / "README.md", *sorted((runs.ROOT / "docs").rglob("*.md"))]
CONFIGURABLES_PAGE = runs.ROOT / "docs" / "configurables.md"
CALLED = {"train": "train", "eval": "evaluate", "cache": "DatasetConfig", "config": "train"}

pytestmark = pytest.mark.smoke


def commands():
  """Yields the page and the words of each `switch_t5` command in its shell blocks."""
  for page in PAGES:
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
      for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["switch_t5"]:
          yield pytest.param(page, words[1:], id=f"{page.stem}: {' '.join(words[1:3])}")


@pytest.mark.parametrize(("page", "words"), list(commands()))
def test_a_command_of_the_pages_is_understood(page: pathlib.Path, words, tmp_path):
  (tmp_path / "config.gin").write_text("include 'recipes/pretrain_demo.gin'\nMODEL_DIR = 'm'\n")
  # What an earlier command of the page has made.
  words = [word.replace("runs/demo/config.gin", str(tmp_path / "config.gin")) for word in words]
  parsed = flags.parse(words)
  mode = parsed.arguments[0]
  assert mode in MODES
  if parsed.gin_files:
    loaded = gin_setup.load_command_line(parsed, CONFIGURABLES, CALLED[mode])
    loaded.call(CALLED[mode])


def test_the_page_of_configurables_is_what_the_command_prints():
  expected = f"```\n{listing(CONFIGURABLES, as_json=False)}\n```\n"
  assert CONFIGURABLES_PAGE.read_text().endswith(expected), (
    "Write it again: the output of `switch_t5 config --list` between its fences."
  )
