# SPDX-License-Identifier: Apache-2.0
"""A plan as a page."""

from __future__ import annotations

import html
import json
import re

import plans
import pytest

from switch_t5.planning import plan
from switch_t5.reports import plan_content, plan_page


def visible(page: str) -> str:
  """Returns the text of a page."""
  body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
  return html.unescape(re.sub(r"<[^>]+>", "\n", body))


@pytest.mark.smoke
def test_a_plan_says_first_whether_it_fits():
  text = visible(plan_page.render(plans.sample()))
  assert "Fits: 23.0 GB of 95.0 GB on each v5p device, 24.2 %." in text
  assert text.index("Fits:") < text.index("Memory of a device")


def test_a_plan_that_is_too_large_says_by_how_much_and_that_it_is_estimated():
  page = plan_page.render(plans.too_large())
  assert "25.0 GB too much (estimated, not compiled)." in visible(page)
  assert 'class="verdict bad"' in page


def test_the_page_of_a_plan_read_back_from_json_is_the_same():
  content = plans.sample()
  assert plan_page.render(json.loads(json.dumps(content))) == plan_page.render(content)


@pytest.mark.parametrize("field", ["model", "step", "remat"])
def test_names_are_escaped(field):
  content = plans.sample()
  content["work"][field] = "<script>alert(1)</script>"
  content["advice"] = ["<script>alert(2)</script>"]
  page = plan_page.render(content)
  assert "<script" not in page
  assert "alert(2)" in visible(page)


def test_collectives_stand_beside_their_bounds_and_what_is_above_them_is_marked():
  rows = {row[:4]: row for row in plan_content.traffic(plans.sample())}
  even = rows["all-to-all", "expert", "forward", "encoder"]
  assert (even.total, even.least, even.excess, even.each) == (
    756_000_000,
    756_000_000,
    0,
    "12 x 63.0 MB",
  )
  assert rows["all-to-all", "expert", "backward", "encoder"].excess == 12 * 32_000_000
  unforeseen = rows["all-gather", "?", "forward", "decoder"]
  assert (unforeseen.least, unforeseen.excess, unforeseen.slow) == (None, 90_000_000, True)
  missing = rows["reduce-scatter", "data", "backward", "decoder"]
  assert (missing.total, missing.excess) == (0, 0)
  assert plan_page.render(plans.sample()).count('<tr class="marked">') == 2


def test_a_few_bytes_above_a_bound_are_no_excess():
  content = plans.sample()
  content["collectives"] = [{**content["collectives"][0], "total": 756_000_100}]
  assert [row.excess for row in plan_content.traffic(content)].count(0) == 4


def test_what_is_above_its_bound_in_one_stack_and_below_it_in_another_is_no_excess():
  content = plans.sample()
  encoder, *others = content["collectives"]
  moved = [{**encoder, "where": "decoder"}, *others[1:]]
  bounds = [bound for bound in content["bounds"] if bound["phase"] == "forward"][:1]
  content |= {"collectives": moved[:1], "bounds": bounds}
  assert [row.excess for row in plan_content.traffic(content)] == [0, 0]


def test_without_a_program_the_bounds_are_shown_and_nothing_is_above_them():
  rows = plan_content.traffic(plans.too_large())
  assert len(rows) == 4
  assert all(row.total is None and not row.excess for row in rows)


def test_one_device_sends_nothing():
  content = plans.sample(collectives=(), bounds=())
  assert "Nothing crosses devices." in visible(plan_page.render(content))


def test_several_plans_stand_side_by_side_and_each_has_its_part():
  page = plan_page.render([plans.sample(), plans.too_large()])
  assert page.count("<article>") == 2
  assert page.count("<h1>") == 1
  text = visible(page)
  assert text.index("side by side") < text.index("Fits: ") < text.index("Does not fit: ")


def test_a_program_that_is_small_for_its_chip_fills_its_picture():
  small = plan.Memory(limit=95 * plans.GB, total=plans.MB, kinds={"program": plans.MB}, exact=True)
  page = plan_page.render(plans.sample(memory=small))
  assert "The 95.0 GB of a v5p device are far beyond the right end." in visible(page)
  assert page.count('width="100.00%"') >= 2  # all, and the program


def test_pictures_have_descriptions_with_all_their_numbers():
  page = plan_page.render(plans.sample())
  (memory,) = re.findall(r"<desc>(all .*?)</desc>", page)
  assert "temporaries 11.8 GB" in html.unescape(memory)
  assert "the chip has 95.0 GB" in memory


def test_what_is_left_out_of_the_table_of_layouts_is_counted():
  content = plans.sample()
  content["candidates"] = list(content["candidates"]) * 50
  page = plan_page.render(content)
  assert page.count("too large") == plan_content.SHOWN // 2
  assert "60 more are in the JSON." in page
