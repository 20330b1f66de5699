# SPDX-License-Identifier: Apache-2.0
"""What the pages tell people to type is understood, and the list of configurables is today's."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import textwrap

import pages
import pytest
import runs

from switch_t5.cli import flags, gin_setup, plan, study
from switch_t5.cli.configurables import CONFIGURABLES
from switch_t5.cli.configuration import parameters
from switch_t5.cli.main import MODES
from switch_t5.cli.show_config import listing

CONFIGURABLES_PAGE = runs.ROOT / "docs" / "configurables.md"
CALLED = {
  "train": "train",
  "eval": "evaluate",
  "infer": "infer",
  "cache": "DatasetConfig",
  "cache_teacher": "train",
  "config": "train",
  "convert": "ModelConfig",
  "plan": "train",
}
COMMANDS = [command for page in pages.PAGES for command in pages.commands(page)]

pytestmark = pytest.mark.smoke


def identify(command: pages.Command) -> str:
  return f"{command.page.stem}: {' '.join(command.words[:3])}"


@pytest.mark.parametrize(
  "command", [c for c in COMMANDS if c.words[0] == "switch_t5"], ids=identify
)
def test_a_command_of_the_pages_is_understood(command: pages.Command, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name, text in pages.files(command.page).items():
    (tmp_path / name).write_text(text)
  parsed = flags.parse([pages.with_stand_ins(word) for word in command.words[1:]])
  for name in parsed.gin_files:
    if name.endswith("/config.gin"):  # what an earlier command of the page has made
      (tmp_path / name).parent.mkdir(parents=True)
      (tmp_path / name).write_text("include 'recipes/pretrain_demo.gin'\nMODEL_DIR = 'm'\n")
  mode = parsed.arguments[0]
  assert mode in MODES
  if mode == "study":  # its files are of every run
    study.run(dataclasses.replace(parsed, dry_run=True))
  elif parsed.gin_files:
    unneeded = plan._UNNEEDED if mode == "plan" else {}
    loaded = gin_setup.load_command_line(parsed, CONFIGURABLES, CALLED[mode], unneeded)
    loaded.call(CALLED[mode])


@pytest.mark.parametrize("command", COMMANDS, ids=identify)
def test_a_command_of_the_pages_is_run_or_has_a_reason_why_not(command: pages.Command):
  listed = command.not_run_because() is not None
  assert command.is_run() != listed, (
    f"{command.place}: {command.text}\nAdd it to RUN or to NOT_RUN in tests/pages.py."
  )


def test_nothing_is_listed_that_no_page_has():
  text = "\n".join(command.text for command in COMMANDS)
  assert set(pages.NOT_RUN) <= {command.text for command in COMMANDS}
  assert [begin for begin in pages.RUN if not any(c.begins(begin) for c in COMMANDS)] == []
  assert [word for word in pages.STAND_INS if word not in text] == []


def test_every_shell_block_of_a_page_is_read():
  for page in pages.PAGES:
    fences = [line for line in page.read_text().splitlines() if line.startswith("```")]
    assert set(fences) <= {"```", "```bash", "```python", "```gin"}, page
    assert len(fences) % 2 == 0, page


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.stem)
def test_every_parameter_that_a_page_names_can_be_set(page: pathlib.Path):
  # Of a table the last column: others hold the names of other projects.
  text = "\n".join(line.strip("| ").rpartition("|")[2] for line in page.read_text().splitlines())
  named = re.findall(r"`(\w+)\.(\w+)\b", text)
  unknown = [
    f"{selector}.{parameter}"
    for selector, parameter in named
    if selector in CONFIGURABLES and parameter not in parameters(CONFIGURABLES[selector])
  ]
  assert unknown == []


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.stem)
def test_links_of_a_page_lead_to_a_heading_of_a_file(page: pathlib.Path):
  for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
    name, _, anchor = target.partition("#")
    path = page.parent / name if name else page
    assert path.exists(), target
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE) if anchor else []
    assert not anchor or anchor in [h.lower().replace(" ", "-") for h in headings], target


def test_a_command_may_go_over_several_lines_and_carry_a_comment(tmp_path):
  page = tmp_path / "page.md"
  page.write_text(
    textwrap.dedent(
      """\
      Text.

      ```bash
      # a comment
      first --a \\
        --b  # why
      python -c "
      x = 1  # kept
      "
      ```
      """
    )
  )
  found = [(command.line, command.text) for command in pages.commands(page)]
  assert found == [(5, "first --a \\\n  --b"), (7, 'python -c "\nx = 1  # kept\n"')]


def test_the_page_of_configurables_is_what_the_command_prints():
  expected = f"```\n{listing(CONFIGURABLES, as_json=False)}\n```\n"
  assert CONFIGURABLES_PAGE.read_text().endswith(expected), (
    "Write it again: the output of `switch_t5 config --list` between its fences."
  )
