# SPDX-License-Identifier: Apache-2.0
"""The command line: modes, flags, and configuration by gin files; see docs/architecture.md."""
