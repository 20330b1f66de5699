# SPDX-License-Identifier: Apache-2.0
"""Pages in a real browser, where there is one: CHROMIUM=/path/to/it, or one on the PATH."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess

import pytest

from switch_t5.reports import run_page
from switch_t5.reports.run_content import Loads, Pieces, RunContent, Warned, by_name

BROWSER = os.environ.get("CHROMIUM") or next(
  filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium: set CHROMIUM")

# What a page that has been drawn says of itself, in its title.
_PROBE = """<script>addEventListener("load", () => {
  const style = element => getComputedStyle(element);
  document.title = "PROBE" + JSON.stringify({
    seconds: performance.now() / 1000,
    width: document.documentElement.scrollWidth,
    window: innerWidth,
    ground: style(document.body).backgroundColor,
    ink: style(document.querySelector(".picture text")).fill,
    unnamed: [...document.querySelectorAll("[role=img]:not([aria-label])")].length,
    unreachable: [...document.querySelectorAll(".scroll")].filter(
      box => box.scrollWidth > box.clientWidth && box.tabIndex < 0).length,
    levels: [...document.querySelectorAll("h1, h2, h3")].map(heading => +heading.tagName[1]),
  });
});</script></body>"""


def probe(tmp_path, page: str, *flags: str) -> dict:
  """Opens a page and returns what it says of itself."""
  path = tmp_path / "page.html"
  path.write_text(page.replace("</body>", _PROBE), encoding="utf-8")
  command = [
    *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
    *(f"--user-data-dir={tmp_path / 'profile'}", *flags),
  ]
  dom = subprocess.run(
    [*command, path.as_uri()], capture_output=True, text=True, timeout=120, check=True
  ).stdout
  found = re.search(r"<title>PROBE(.*?)</title>", dom)
  assert found, dom[:500]
  return json.loads(found[1].replace("&quot;", '"').replace("&amp;", "&"))


@pytest.fixture(scope="module")
def page() -> str:
  rows = [
    {"step": step, "train/cross_entropy": 4 + math.sin(step / 50), "router/r/1/mlp/entropy": 1.0}
    for step in range(1, 100_001)
  ]
  run = RunContent(
    name="a_run_with_a_very_long_name_that_does_not_fit_a_telephone_" * 2,
    metrics=by_name(rows),
    starts=[{"step": 0, "devices": "8 x cpu", "time": "2026-11-26T20:00:00+00:00"}],
    config="x = 'a line that is longer than any telephone is wide, and then some more of it'\n"
    * 50,
    alarms=[
      Warned(7, "a long sentence " * 8, "another " * 8, "LossConfig.load_balance_factor = 1")
    ],
    loads={"r/1/mlp": Loads(list(range(300)), [[1.0] * 128] * 300)},
    pieces={"r/1/mlp": [Pieces(1, [("the", 0.5)] * 8)] * 64},
  )
  return run_page.render([run, run._replace(name="other")])


@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_of_100000_steps_opens_at_once_and_fits_its_window(tmp_path, page, width):
  found = probe(tmp_path, page, f"--window-size={width},900")
  assert found["seconds"] < 2
  # A headless window is never narrower than 500 pixels.
  assert found["width"] <= found["window"]
  assert found["unnamed"] == found["unreachable"] == 0
  assert found["levels"][0] == 1
  assert all(b <= a + 1 for a, b in zip(found["levels"], found["levels"][1:], strict=False))


def test_colours_follow_the_readers_choice(tmp_path, page):
  light = probe(tmp_path, page)
  dark = probe(tmp_path, page, "--blink-settings=preferredColorScheme=0")
  assert light["ground"] != dark["ground"]
  assert light["ink"] != dark["ink"]
