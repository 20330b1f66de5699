# SPDX-License-Identifier: Apache-2.0
"""Objects: what is listed, read back and deleted is what is there."""

from __future__ import annotations

import hashlib

import pytest

from switch_t5.storage import objects
from switch_t5.storage.kvstore import ConditionalObject
from switch_t5.storage.location import location


def test_objects_are_put_listed_copied_hashed_and_deleted(remote_prefix, monkeypatch):
  monkeypatch.setattr(objects, "_CHUNK", 1000)
  folder = location(remote_prefix)
  content = bytes(range(256)) * 10
  assert objects.sizes(folder) == {} and objects.folders(folder) == []
  objects.write(folder / "deep" / "one", content)
  objects.write(folder / "two", b"")
  assert objects.sizes(folder) == {"deep/one": 2560, "two": 0}
  assert objects.folders(folder) == ["deep"]
  assert objects.sha256(folder / "deep" / "one", 2560) == hashlib.sha256(content).hexdigest()
  objects.copy(folder / "deep" / "one", folder / "three")
  assert objects.read(folder / "three") == content
  objects.delete(folder / "three")
  objects.delete(folder / "three")
  assert not objects.exists(folder / "three") and objects.exists(folder / "deep")
  with pytest.raises(FileNotFoundError):
    objects.read(folder / "three")


def test_an_object_that_changed_since_it_was_seen_is_not_written(remote_prefix):
  path = location(remote_prefix) / "one"
  first, second = ConditionalObject(path), ConditionalObject(path)
  content, seen = first.read()
  assert content is None
  written = second.write(b"second", seen)
  assert written is not None
  assert first.write(b"first", seen) is None
  assert objects.read(path) == b"second"
  assert second.write(b"again", written) is not None
