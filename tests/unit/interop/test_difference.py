# SPDX-License-Identifier: Apache-2.0
"""Two checkpoints are compared name by name, value by value, whatever their formats."""

from __future__ import annotations

import numpy as np
import stored

from switch_t5.interop.difference import Difference, compared, differences

NAME = "target/encoder/layers_0/mlp/wi/kernel"


def found(first, second):
  return list(differences(first, second))


def test_equal_checkpoints_have_no_difference():
  first, second = (stored.checkpoint(stored.switch()) for _ in range(2))
  assert found(first, second) == []
  names, aside = compared(first, second)
  assert set(names) == set(first.arrays)
  assert aside == ""


def test_each_kind_of_difference_is_told():
  first, second = (stored.checkpoint(stored.switch()) for _ in range(2))
  values = np.ones((16, 32), np.float32)
  first.arrays[NAME] = stored.array(values.copy())
  values[3, 5] += 0.5
  values[4, 5] -= 0.25
  second.arrays[NAME] = stored.array(values)
  norm = "target/encoder/encoder_norm/scale"
  second.arrays[norm] = stored.array(np.zeros(17, np.float32))
  second.arrays["target/more/kernel"] = second.arrays.pop("target/decoder/decoder_norm/scale")
  rows = {row.name: row for row in found(first, second)}
  assert rows[NAME] == Difference(NAME, "float32[16,32]", "float32[16,32]", 0.5, 2)
  assert rows[norm] == Difference(norm, "float32[16]", "float32[17]")
  assert rows["target/more/kernel"].first is None
  assert rows["target/decoder/decoder_norm/scale"].second is None
  assert len(rows) == 4
  assert "2 elements differ, by up to 0.5" in str(rows[NAME])


def test_another_dtype_is_a_difference_also_with_equal_values():
  first, second = (stored.checkpoint(stored.dense(), adafactor=False) for _ in range(2))
  first.arrays[NAME] = stored.array(np.ones((16, 32), stored.BFLOAT16))
  second.arrays[NAME] = stored.array(np.ones((16, 32), np.float32))
  (row,) = found(first, second)
  assert (row.first, row.largest, row.differing) == ("bfloat16[16,32]", 0.0, 0)


def test_nan_equals_nan_and_nothing_else():
  values = np.ones((16, 32), np.float32)
  values[0, 0] = np.nan
  first, second, third = (stored.checkpoint(stored.dense()) for _ in range(3))
  first.arrays[NAME] = second.arrays[NAME] = stored.array(values)
  third.arrays[NAME] = stored.array(np.ones((16, 32), np.float32))
  assert found(first, second) == []
  (row,) = found(first, third)
  assert np.isnan(row.largest)
  assert row.differing == 1


def test_without_optimizer_state_on_one_side_the_parameters_decide():
  model = stored.dense()
  first, second = stored.checkpoint(model), stored.checkpoint(model)
  for name in [n for n in second.arrays if not n.startswith("target/")]:
    del second.arrays[name]
  names, aside = compared(first, second)
  assert all(name.startswith("target/") for name in names)
  assert "Only memory has" in aside
  assert found(first, second) == []
