# SPDX-License-Identifier: Apache-2.0
"""Where files are: on a file system or an object store."""
