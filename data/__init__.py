# SPDX-License-Identifier: Apache-2.0
"""Assets, packaged as `switch_t5.assets`: the embedded vocabulary and a frozen text for tests."""
