# SPDX-License-Identifier: Apache-2.0
"""The page of a run: what it shows, escapes and leaves out."""

from __future__ import annotations

import math
import re

import pytest

from switch_t5.reports import run_content, run_page
from switch_t5.reports.run_content import Checkpoint, Loads, Pieces, RunContent, Warned, by_name

HOSTILE = "<script>alert(1)</script>"
ROWS = [
  {
    "step": step,
    "train/cross_entropy": 9.0 / step,
    "train/learning_rate": 0.01,
    "train/tokens_per_second": 1e4,
    "router/encoder/layer_1/mlp/entropy": 1.5,
    "router/encoder/layer_1/mlp/expert_load_max": 1.2,
  }
  for step in range(1, 11)
] + [{"step": 10, "eval/text/cross_entropy": 4.25, "eval/text/accuracy": 0.3}]
START = {
  "time": "2026-11-26T20:00:00+00:00",
  "step": 0,
  "devices": "8 x cpu",
  "mesh": {"data": 8, "expert": 1, "model": 1},
  "versions": {"jax": "0.12"},
}


def run(**fields) -> RunContent:
  given = {"name": "demo", "metrics": by_name(ROWS), "starts": [START], "config": "SEED = 0\n"}
  return RunContent(**given | fields)


def test_a_page_shows_the_state_first_and_all_that_is_known():
  page = run_page.render(
    [
      run(
        total_steps=20,
        seconds={"compute": 90.0, "input": 10.0},
        checkpoints=[Checkpoint(10, 10**8, "2026-11-26", True)],
        loads={"encoder_1": Loads([1, 10], [[1.0, 1.0], [2.0, 0.0]])},
        pieces={"encoder_1": [Pieces(3, [("the", 0.5)]), Pieces(1, [(",", 1.0)])]},
      )
    ]
  )
  assert "Step 10 of 20, 0.900 nats per target token in training, 4.250 held out (text)." in page
  headings = re.findall(r"<h2>(.*?)</h2>", page)
  assert headings == [
    *("Loss", "Learning rate and norms", "Speed", "Experts", "What each expert takes", "Tasks"),
    *("Checkpoints", "Starts", "Configuration"),
  ]
  assert "expert 0 has 2.00 times the mean load" in page
  assert "data:image/png;base64," in page


def test_a_run_with_little_behind_it_has_a_page():
  page = run_page.render([run(metrics=by_name([{"step": 1, "train/loss": 3.0}]), starts=[])])
  assert "Step 1." in page


def test_alarms_and_a_loss_that_is_not_finite_are_bad_news():
  alarm = Warned(7, "the loss rose.", "bad rows", "SEED = 1")
  assert run_content.verdict(run(alarms=[alarm])) == (
    "Step 10, 0.900 nats per target token in training, 4.250 held out (text), 1 alarm.",
    False,
  )
  diverged = by_name([{"step": 1, "train/cross_entropy": math.nan}])
  assert run_content.verdict(run(metrics=diverged))[0].endswith("it has diverged.")
  assert "SEED = 1" in run_page.render([run(alarms=[alarm])])


def test_what_comes_from_data_or_names_is_escaped():
  alarm = Warned(1, HOSTILE, HOSTILE, HOSTILE)
  hostile = run(
    name=HOSTILE,
    config=HOSTILE,
    metrics=by_name(
      [{"step": 1, f"eval/{HOSTILE}/cross_entropy": 1.0, "train/cross_entropy": 2.0}]
    ),
    starts=[START | {"devices": HOSTILE}],
    alarms=[alarm],
    loads={HOSTILE: Loads([1], [[1.0, 1.0]])},
    pieces={HOSTILE: [Pieces(1, [(HOSTILE, 1.0)])]},
    goodput=HOSTILE,
  )
  for page in (run_page.render([hostile]), run_page.render([hostile, hostile])):
    assert "<script" not in page


def test_a_page_needs_no_network():
  page = run_page.render([run()])
  assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []
  assert "@import" not in page


def test_several_runs_are_laid_over_each_other_and_their_settings_compared():
  page = run_page.render([run(), run(name="other", config="SEED = 1\n")])
  assert "<h2>Compared</h2>" in page
  assert page.count("Cross-entropy held out") >= 1
  assert re.search(r"SEED</th><td>0</td><td>1</td>", page)


def test_a_hundred_thousand_steps_make_a_page_below_five_megabytes():
  rows = [
    ROWS[0] | {"step": step, "train/cross_entropy": 5 + math.sin(step)}
    for step in range(1, 100_001)
  ]
  assert len(run_page.render([run(metrics=by_name(rows))])) < 5e6


def test_many_routers_are_drawn_as_least_mean_and_greatest():
  rows = [{"step": 1, **{f"router/r/{i}/entropy": float(i) for i in range(12)}}]
  found = run_content.spread(by_name(rows), "entropy", at_most=7)
  assert [(label, points[0][1]) for label, points in found] == [
    ("greatest of the routers", 11.0),
    ("mean of the routers", 5.5),
    ("least of the routers", 0.0),
  ]


def test_settings_of_several_lines_are_compared_whole():
  one, other = "A.x = [1,\n    2]\nB = 1\n", "A.x = [1,\n    3]\nB = 1\n"
  assert run_content.differences([one, other]) == [("A.x", ["[1, 2]", "[1, 3]"])]


@pytest.mark.parametrize("refresh", [None, 30])
def test_a_page_that_is_watched_reads_itself_again(refresh):
  assert ("http-equiv" in run_page.render([run()], refresh)) == (refresh is not None)
