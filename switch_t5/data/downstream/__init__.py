# SPDX-License-Identifier: Apache-2.0
"""The tasks of the paper's section 4: published data sets as T5's text to text."""
