# SPDX-License-Identifier: Apache-2.0
"""What `benchmarks.fuzz_checkpoints` is made of."""
