# SPDX-License-Identifier: Apache-2.0
"""Numbers as people read them: three digits and a unit."""

from __future__ import annotations

_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_COUNTS = ((1e12, " trillion"), (1e9, " billion"), (1e6, " million"))


def gigabytes(number: float) -> str:
  """Returns bytes in GB (10^9), e.g. "43.1 GB", for sizes that are compared; below one GB as `size`."""
  return f"{number / 1e9:,.1f} GB" if number >= 1e9 else size(number)


def size(number: float) -> str:
  """Returns bytes in the unit that fits, e.g. "62.9 MB"."""
  return f"{scaled(number)}B"


def scaled(number: float) -> str:
  """Returns a number and the prefix of its unit, e.g. "459 T"."""
  for factor, prefix in _PREFIXES:
    if number >= factor:
      return f"{_digits(number / factor)} {prefix}"
  return f"{_digits(number)} "


def count(number: float) -> str:
  """Returns how many, e.g. "394.7 billion"; between a hundred and a million all digits."""
  for factor, name in _COUNTS:
    if number >= factor:
      return f"{number / factor:.4g}{name}"
  return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def seconds(number: float) -> str:
  """Returns a time, e.g. "192 ms"."""
  if number >= 120:
    return f"{number / 60:,.1f} min"
  for factor, unit in ((1.0, "s"), (1e-3, "ms")):
    if number >= factor:
      return f"{_digits(number / factor)} {unit}"
  return f"{_digits(number / 1e-6)} µs"


def percent(fraction: float) -> str:
  """Returns a fraction in per cent, e.g. "5.0 %"."""
  return f"{100 * fraction:.1f} %" if fraction >= 1e-3 or not fraction else "below 0.1 %"


def _digits(number: float) -> str:
  return f"{number:.0f}" if number >= 99.95 or number == 0 else f"{number:#.3g}"
