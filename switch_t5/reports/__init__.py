# SPDX-License-Identifier: Apache-2.0
"""Pictures, made of plain values."""
