# SPDX-License-Identifier: Apache-2.0
"""The files of a study: its table as Markdown, JSON and a page, and its pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from switch_t5.checkpoint.commit import write_text_durably
from switch_t5.cli.study_runs import StudyRuns
from switch_t5.reports import intervals, line_chart, study_page
from switch_t5.studies.family import Outcome


def write(study: StudyRuns, found: Outcome, about: Mapping[str, Any]) -> str:
  """Writes what a study found in all forms.

  Args:
    study: it.
    found: what.
    about: what the JSON opens with.

  Returns:
    The table and its sentences as Markdown, and a line with the names of the files.
  """
  folder, name = study.folder, study.family.name
  titles = {arm.name: arm.title for arm in study.family.arms}
  settings = [(titles[arm], text) for arm, text in study.settings.items()]
  content = found.content._replace(settings=settings)
  text = study_page.markdown(content)
  json_text = json.dumps({**about, **found.json, "start": study.start(study.plan[0])}, indent=2)
  write_text_durably(folder / f"{name}.md", f"# {content.title}\n\n{text}\n")
  write_text_durably(folder / f"{name}.json", json_text + "\n")
  write_text_durably(folder / f"{name}.html", study_page.render(content))
  intervals.draw(folder / f"{name}.png", found.entries, content.title, found.axis)
  line_chart.draw(folder / f"{name}_curves.png", content.charts)
  files = (f"{name}.html", f"{name}.md", f"{name}.json", f"{name}.png", f"{name}_curves.png")
  return f"{text}\n\nWritten: {folder}/{', '.join(files)}"
