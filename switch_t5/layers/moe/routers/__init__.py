# SPDX-License-Identifier: Apache-2.0
"""What routers are made of: each idea a function, with its source."""
