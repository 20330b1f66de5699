# SPDX-License-Identifier: Apache-2.0
"""The mesh, the logical axes of parameters and activations, and the table between them."""
