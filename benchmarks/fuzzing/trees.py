# SPDX-License-Identifier: Apache-2.0
"""What happens to nested dictionaries and lists: of JSON, of msgpack, of a header."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

NUMBERS: tuple[Any, ...] = (
  *(-1, 0, 1, 2, 3, 7, 8, 255, 1 << 31, 1 << 53, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
  *(-(1 << 31), -(1 << 63), 0.5, 1.0, -0.0, 1e300, float("inf"), float("nan"), True, False),
)
_PATHS = (
  "",
  ".",
  "..",
  "/",
  "x/../y",
  "./x",
  "..\\x",
  "/dev/zero",
  "/etc/passwd",
  "x" * 300,
  "x/" * 5000,
)
_ODD = (
  "a\0b",
  "a\x1b[2Jb",
  "a\nb",
  "é",
  "\ud800",
  "x" * 100_000,
  "None",
  "np.ndarray",
  "PLACEHOLDER://x",
)
_REMOTE = (
  *("file:///etc/passwd", "s3://bucket/x", "gs://bucket/x", "http://127.0.0.1:9/x", "s3", "gcs"),
  *("gfile", "http", "memory", "file", "ocdbt", "zarr3", "n5", "zip", "zstd", "gzip", "blosc"),
)
_DTYPES = (
  *("|O", "<f8", "<f2", ">f4", "<i4", "|V4", "float64", "float32", "float16", "bfloat16", "int32"),
  *("int64", "uint32", "bool", "object", "complex64", "pickle", "F64", "F16", "BF16", "I32", "U8"),
)
TEXTS = (_PATHS, _ODD, _REMOTE, _DTYPES)
STRAY = {"auto_map": {"AutoModel": "evil.Model"}, "__reduce__": ["os.system", ["true"]]}
HERE = "\x01here\x01"  # a leaf that stands for the raw bytes of a bomb


class Twin(str):
  """A key that a dictionary has beside an equal one."""

  __hash__ = object.__hash__

  def __eq__(self, other: object) -> bool:
    return self is other


class Place(NamedTuple):
  """Where a value stands: `holder[key]`."""

  holder: Any
  key: Any

  @property
  def value(self) -> Any:
    """What stands there."""
    return self.holder[self.key]

  def put(self, value: Any) -> None:
    """Puts another there."""
    self.holder[self.key] = value


def places(node: Any) -> Iterator[Place]:
  """Yields the place of everything in a tree, but not of the tree itself."""
  keys = list(node) if isinstance(node, dict) else range(len(node))
  for key in keys:
    yield Place(node, key)
    if isinstance(node[key], dict | list):
      yield from places(node[key])


def change_number(rng: random.Random, tree: Any, outside: str) -> bool:
  """A number is another."""
  place = _choose(rng, tree, lambda at: isinstance(at.value, int | float))
  if place is None:
    return False
  near = (place.value + 1, place.value - 1, place.value * 2, -place.value, str(place.value))
  place.put(rng.choice((*NUMBERS, *near, *near, *near)))
  return True


def change_text(rng, tree, outside) -> bool:
  """A text is another."""
  place = _choose(rng, tree, lambda at: isinstance(at.value, str))
  if place is None:
    return False
  others = [at.value for at in places(tree) if isinstance(at.value, str)]
  place.put(rng.choice((_text(rng), _text(rng), rng.choice(others), _shifted(rng, place.value))))
  return True


def point_outside(rng, tree, outside) -> bool:
  """A text leads out of the folder, to what lies there under the same name."""
  place = _choose(rng, tree, lambda at: isinstance(at.value, str))
  if place is None:
    return False
  scheme, mark, name = place.value.rpartition("://")
  place.put(f"{scheme}{mark}{rng.choice(('', '', 'file://'))}{outside}/{name}")
  return True


def rename(rng, tree, outside) -> bool:
  """A key is another."""
  place = _choose(rng, tree, lambda at: isinstance(at.holder, dict))
  if place is None:
    return False
  others = [at.key for at in places(tree) if isinstance(at.holder, dict)]
  new = rng.choice(
    (_text(rng), f"{outside}/{place.key}", rng.choice(others), _shifted(rng, place.key))
  )
  place.holder[new] = place.holder.pop(place.key)
  return True


def remove(rng, tree, outside) -> bool:
  """A key or an item is gone."""
  place = _choose(rng, tree)
  if place is None:
    return False
  del place.holder[place.key]
  return True


def duplicate(rng, tree, outside) -> bool:
  """A key stands twice, with one value or two, or an item does."""
  place = _choose(rng, tree)
  if place is None:
    return False
  if isinstance(place.holder, list):
    place.holder.insert(place.key, copy.deepcopy(place.value))
    return True
  value = rng.choice([place.value, _choose(rng, tree).value])
  place.holder[Twin(place.key)] = copy.deepcopy(value)
  return True


def add(rng, tree, outside) -> bool:
  """There is one key or item more."""
  holders = [tree, *(at.value for at in places(tree) if isinstance(at.value, dict | list))]
  holder, value = (
    rng.choice(holders),
    rng.choice((rng.choice(NUMBERS), _text(rng), [], {}, copy.deepcopy(STRAY), None)),
  )
  if isinstance(holder, list):
    holder.insert(rng.randint(0, len(holder)), value)
  elif isinstance(value, dict) and value and rng.random() < 0.5:
    holder.update(value)
  else:
    holder[rng.choice(("extra", _text(rng)))] = value
  return True


def change_kind(rng, tree, outside) -> bool:
  """A value is of another kind."""
  place = _choose(rng, tree)
  if place is None:
    return False
  value = place.value
  place.put(rng.choice(([], {}, None, [value], {"0": value}, "x", 1, [[]] * 20, {"a": {}})))
  return True


def nest(rng, tree, outside) -> bool:
  """A value lies deep in lists or dictionaries."""
  place = _choose(rng, tree)
  if place is None:
    return False
  for _ in range(rng.choice((10, 40, 200))):
    place.put([place.value] if rng.random() < 0.5 else {"a": place.value})
  return True


def swap_values(rng, tree, outside) -> bool:
  """Two values of one kind change places, those of two leaves of one name half of the time."""
  one = _choose(rng, tree)
  if one is None:
    return False
  alike = lambda at: type(at.value) is type(one.value)  # noqa: E731
  same = lambda at: at.key == one.key and alike(at)  # noqa: E731
  other = _choose(rng, tree, rng.choice((alike, same)))
  within = [at.value for at in places(one.value)] if isinstance(one.value, dict | list) else []
  if any(value is other.value for value in within) or one.value is other.value:
    return False
  if isinstance(other.value, dict | list) and any(
    at.value is one.value for at in places(other.value)
  ):
    return False
  here, there = one.value, other.value
  one.put(there)
  other.put(here)
  return True


def _choose(rng: random.Random, tree: Any, condition: Callable[[Place], bool] | None = None) -> Any:
  """Returns a place, or None; any key, or any kind of value, is as likely as another."""
  by = rng.choice((lambda at: at.key, lambda at: type(at.value)))
  found: dict[Any, list[Place]] = {}
  for place in places(tree):
    if condition is None or condition(place):
      found.setdefault(by(place), []).append(place)
  return rng.choice(rng.choice(list(found.values()))) if found else None


def _text(rng: random.Random) -> str:
  return rng.choice(rng.choice(TEXTS))


def _shifted(rng: random.Random, text: str) -> str:
  """Returns a text with one character changed, removed or doubled."""
  if not text:
    return "x"
  at = rng.randrange(len(text))
  return (
    text[:at] + rng.choice(("", text[at] * 2, chr(ord(text[at]) ^ 1), "\ud800")) + text[at + 1 :]
  )


TREES: dict[str, Callable[[random.Random, Any, str], bool]] = {
  "change a number": change_number,
  "change a text": change_text,
  "point outside": point_outside,
  "rename a key": rename,
  "remove a key": remove,
  "duplicate a key": duplicate,
  "add a key": add,
  "change a kind": change_kind,
  "nest": nest,
  "swap two values": swap_values,
}
