# SPDX-License-Identifier: Apache-2.0
"""The table of a study: paired differences, what is noise, and runs that diverged."""

from __future__ import annotations

import pytest

from switch_t5.reports import study_page
from switch_t5.studies.curves import Run
from switch_t5.studies.family import Arm, Family, outcome
from switch_t5.studies.paired import mean_interval

FAMILY = Family(
  "some", "Some study", (Arm("one", "first", paper={"quality": "-1"}), Arm("two", "second")), "one"
)


def runs_of(arm, qualities):
  """Returns a run for each quality, None for one that diverged."""
  return [
    Run(
      arm,
      seed,
      10,
      "text",
      {} if found is None else {"eval/text/cross_entropy": [(5, 9.0), (10, -found)]},
      {"parameters": 7.0},
      "The loss is not finite. step 3" if found is None else None,
    )
    for seed, found in enumerate(qualities)
  ]


def found(one, two):
  return outcome(
    FAMILY, "Some study, test", {"one": runs_of("one", one), "two": runs_of("two", two)}
  )


def test_differences_are_paired_by_seed_and_their_interval_is_student_s():
  what = found([-5.0, -4.0, -3.0], [-4.9, -3.9, -2.88])
  gain = what.json["arms"]["two"]["quality"]["difference"]
  expected = mean_interval([0.1, 0.1, 0.12])
  assert gain["estimate"] == pytest.approx(expected.estimate)
  assert gain["low"] == pytest.approx(expected.low)
  assert not gain["inside_the_noise"]
  text = study_page.markdown(what.content)
  assert "+0.1067 (+0.0" in text and ", better |" in text
  assert "| first | -1 | -4.0000" in text
  assert what.entries[0].points == pytest.approx([0.1, 0.1, 0.12])


def test_a_difference_inside_its_interval_is_said_to_be_noise():
  what = found([-5.0, -4.0], [-4.8, -4.1])
  assert what.json["arms"]["two"]["quality"]["difference"]["inside_the_noise"]
  assert ", inside the noise |" in study_page.markdown(what.content)


def test_a_run_that_diverged_has_its_row_and_the_other_seeds_are_compared():
  what = found([-5.0, -4.0, -3.0], [-4.9, None, -2.9])
  text = study_page.markdown(what.content)
  assert "; 1 of 3 diverged |" in text
  assert "second, seed 1, diverged: The loss is not finite. step 3" in text
  assert what.json["arms"]["two"]["quality"]["values"] == [-4.9, -2.9]
  assert what.json["arms"]["two"]["diverged"] == {1: "The loss is not finite. step 3"}


def test_an_arm_that_diverged_in_every_seed_is_no_number():
  what = found([-5.0, -4.0], [None, None])
  assert "| second |  | diverged |  |" in study_page.markdown(what.content)
  assert list(what.entries) == []


def test_what_an_arm_sets_is_the_study_s_own():
  arms = (Arm("a", "a", bindings=("X.y = 3",), paths=(("TEACHER_PATH", "b"),)), Arm("b", "b"))
  assert Family("some", "Some", arms, "b").own == {"MODEL_DIR", "SEED", "X.y", "TEACHER_PATH"}


def test_the_page_has_table_sentences_and_curves_and_escapes_what_is_text():
  what = found([-5.0, -4.0], [-4.9, -3.9])
  content = what.content._replace(title="<b>", settings=[("first", "A = '<i>'")])
  page = study_page.render(content)
  assert "<polyline" in page and "prefers-color-scheme: dark" in page
  assert "&lt;b&gt;" in page and "<i>" not in page and "<script" not in page
