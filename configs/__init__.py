# SPDX-License-Identifier: Apache-2.0
"""Gin files: models/, data/, mesh/, runs/ and the runnable recipes/; installed as `switch_t5.configs`."""
