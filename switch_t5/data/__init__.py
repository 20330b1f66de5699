# SPDX-License-Identifier: Apache-2.0
"""Data: from text to batches.

source (embedded_corpus, text_files) -> documents -> tasks -> cache (flat token shards)
-> indexed reader -> span_corruption -> a batch as `switch_t5.batch` defines it.
Only `seqio_tasks` imports TensorFlow and seqio.
"""
