# SPDX-License-Identifier: Apache-2.0
"""The Switch layer: router, capacity, dispatch plan, experts and what the router reports.

Letters: G groups on this device, N tokens per group, E experts, C places per expert and group
(capacity), k choices per token, d and f the model and feed-forward widths; T = G * N tokens.
"""
