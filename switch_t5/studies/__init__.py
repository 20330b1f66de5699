# SPDX-License-Identifier: Apache-2.0
"""The paper's experiments: what is measured, and what follows from the numbers."""
