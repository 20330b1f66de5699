# SPDX-License-Identifier: Apache-2.0
"""Paths that a checkpoint says are its own."""

from __future__ import annotations

import pytest

from switch_t5.errors import CheckpointError
from switch_t5.interop.untrusted import contained


@pytest.mark.parametrize("relative", ["a", "a/", "a/b.c", "a b/\u00e9"])
def test_a_path_below_the_folder_is_one_there(tmp_path, relative):
  assert contained(tmp_path, relative, "here") == tmp_path / relative


@pytest.mark.parametrize(
  "relative",
  [
    *("", "/", "/a", "a//b", ".", "./a", "..", "../a", "a/../b", "a\\b", "a\0b", "a\nb", "\ud800"),
    *("x" * 300, "x/" * 5000, None, 3, ["a"], b"a"),
  ],
  ids=lambda relative: ascii(relative)[:20],
)
def test_any_other_is_refused(tmp_path, relative):
  with pytest.raises(CheckpointError, match="here: names ") as error:
    contained(tmp_path, relative, "here")
  assert len(str(error.value)) < 1000


@pytest.mark.parametrize("relative", ["link", "link/a", "a/link"])
def test_a_path_through_a_link_is_refused(tmp_path, relative):
  (tmp_path / "a").mkdir()
  for folder in (tmp_path, tmp_path / "a"):
    (folder / "link").symlink_to(tmp_path)
  with pytest.raises(CheckpointError, match="link is a link"):
    contained(tmp_path, relative, "here")
