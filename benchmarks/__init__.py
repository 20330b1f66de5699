# SPDX-License-Identifier: Apache-2.0
"""What is measured: ratios taken in one run; RESULTS.md keeps them."""

import switch_t5  # noqa: F401 - before jax: it sets the allocator's thresholds
