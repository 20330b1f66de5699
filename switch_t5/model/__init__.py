# SPDX-License-Identifier: Apache-2.0
"""The T5 encoder-decoder, dense and Switch: one model, a dense one has no sparse layer."""
