# SPDX-License-Identifier: Apache-2.0
"""A plan on the terminal."""

from __future__ import annotations

import plans
import pytest

from switch_t5.reports import plan_text


def long_plan() -> dict:
  """Returns a plan with a hundred of everything."""
  content = plans.sample()
  one = content["collectives"][0]
  content["collectives"] = [{**one, "kind": f"all-to-all-{i}"} for i in range(100)]
  content["candidates"] = list(content["candidates"]) * 50
  content["advice"] = ["A sentence of advice that goes on and on, " * 5] * 100
  content["work"]["model"] = "A model whose name is long, " * 30
  return content


@pytest.mark.smoke
@pytest.mark.parametrize("make", [plans.sample, plans.too_large, long_plan])
def test_a_plan_is_at_most_60_lines_of_100_columns(make):
  lines = plan_text.render(make()).splitlines()
  assert len(lines) <= plan_text.HEIGHT
  assert max(map(len, lines)) <= plan_text.WIDTH


def test_the_verdict_comes_first():
  assert plan_text.render(plans.sample()).startswith("Fits: 23.0 GB of 95.0 GB")
  assert plan_text.render(plans.too_large()).startswith("Does not fit: 120.0 GB")


def test_what_is_left_out_is_counted():
  assert "more lines: see the page or the JSON" in plan_text.render(long_plan())
  assert "more lines" not in plan_text.render(plans.sample())


def test_what_is_above_its_bound_is_marked():
  (line,) = [text for text in plan_text.render(plans.sample()).splitlines() if "384 MB" in text]
  assert line.startswith("all-to-all") and line.endswith("! 384 MB more")


def test_numbers_that_are_printed_are_those_of_the_plan():
  text = plan_text.render(plans.sample())
  for said in ("46.0 ms, bound by compute", "27,800,000", "124 GFLOP", "44,521 rows a second"):
    assert said in text
