# SPDX-License-Identifier: Apache-2.0
"""The table of the distillation study, from qualities that are known."""

from __future__ import annotations

import pytest

from switch_t5.reports import study_page
from switch_t5.studies import distill

# By seed; every student keeps exactly 0, 10, 25, 50% of the teacher's gain.
DENSE = [-3.0, -3.1, -2.9]
GAINS = [0.20, 0.22, 0.21]
KEPT = {
  "dense": 0.0,
  "teacher": 1.0,
  "distilled": 0.1,
  "distilled_from_teacher": 0.25,
  "mixed_from_teacher": 0.5,
  "from_teacher": 0.0,
}
PARAMETERS = {"dense": 2_000, "teacher": 10_000}


def qualities(gains):
  return {
    name: [quality + kept * gain for quality, gain in zip(DENSE, gains, strict=True)]
    for name, kept in KEPT.items()
  }


def test_the_paper_s_shares_follow_from_its_qualities():
  shares = {arm.name: round(100 * distill.paper_share(arm)) for arm in distill.ARMS}
  assert shares["distilled"] == 3
  assert shares["distilled_from_teacher"] == 20
  assert shares["mixed_from_teacher"] == 29
  assert shares["from_teacher"] == -2


def test_shares_are_of_the_teacher_s_gain_over_the_dense_model_of_the_same_seed():
  for row in distill.rows(qualities(GAINS)):
    if row.share is not None:
      assert row.share == pytest.approx([KEPT[row.arm.name]] * 3, abs=1e-6)
  assert [row.arm.name for row in distill.rows(qualities(GAINS)) if row.share is None] == [
    "dense",
    "teacher",
  ]


def test_the_page_has_the_paper_beside_ours():
  page = study_page.markdown(distill.content("", distill.rows(qualities(GAINS)), PARAMETERS, 3))
  (line,) = [line for line in page.splitlines() if "0.75 targets" in line]
  assert "| -1.580 | 29% | -2.8950 |" in line and "50% (50% to 50%)" in line
  assert "80.0% fewer" in page and "not clear of 0" not in page


@pytest.mark.parametrize("gains", [[0.1, -0.05, 0.02], [-0.2, -0.21, -0.22]], ids=["noise", "loss"])
def test_no_share_is_given_of_a_gain_that_is_not_there(gains):
  table = distill.rows(qualities(gains))
  assert all(row.share is None for row in table)
  assert "not clear of 0" in distill.content("", table, PARAMETERS, 3).sentences[-1]
  assert all(arm["share"] is None for arm in distill.as_json(table, PARAMETERS)["arms"].values())


def test_what_a_student_is_trained_from_is_the_table_s():
  by_name = {arm.name: arm for arm in distill.ARMS}
  assert [name for name, arm in by_name.items() if not arm.needs_teacher] == ["dense", "teacher"]
  assert by_name["mixed_from_teacher"].fraction_soft == 0.25
  assert by_name["from_teacher"].fraction_soft is None
