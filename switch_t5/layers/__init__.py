# SPDX-License-Identifier: Apache-2.0
"""The layers of a T5 encoder-decoder. Activations are 2-D, [tokens, d], between layers.

On CPU, XLA contracts 3-D activations through transposed copies in the backward pass; 2-D ones need
none. On accelerators the two forms compile alike.
"""
