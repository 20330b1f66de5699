# SPDX-License-Identifier: Apache-2.0
"""The guide for Python runs as it stands, block by block, in one namespace as a notebook has it."""

from __future__ import annotations

import re

import runs
import stored

GUIDE = runs.ROOT / "docs" / "guides" / "from-python.md"


def test_every_block_of_the_guide_runs(tmp_path, monkeypatch, capsys):
  stored.write_run(tmp_path / "runs" / "demo")
  monkeypatch.chdir(tmp_path)
  blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
  assert len(blocks) >= 8
  namespace: dict[str, object] = {}
  for block in blocks:
    exec(compile(block, str(GUIDE), "exec"), namespace)
  printed = capsys.readouterr().out
  assert re.match(r"\d+ experts; vocabulary of 8100 ids\n", printed)
  assert "Returns the <extra_id_0> of an array. ->" in printed
