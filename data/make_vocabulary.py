# SPDX-License-Identifier: Apache-2.0
"""Makes `embedded.model` from the embedded corpus and prints what README.md records of it.

Run in the repository root, with the package installed: `python data/make_vocabulary.py`. The same
versions of the packages (README.md) make the same file.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
from pathlib import Path

import sentencepiece

from switch_t5.data import documents, embedded_corpus

VOCABULARY_SIZE = 8000


def train(corpus: list[str]) -> bytes:
  """Returns a SentencePiece unigram model of the documents."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(line for document in corpus for line in document.split("\n")),
    model_writer=model,
    model_type="unigram",
    vocab_size=VOCABULARY_SIZE,
    byte_fallback=True,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    num_threads=1,  # the pieces do not depend on the number of threads, the file does
    minloglevel=1,
  )
  return model.getvalue()


def main() -> None:
  """Writes the model and prints its provenance."""
  corpus = embedded_corpus.EmbeddedCorpus()
  text = documents.split_documents(corpus.documents())[documents.TRAIN]
  model = train(text)
  Path(__file__).with_name("embedded.model").write_bytes(model)
  print(f"embedded.model  SHA-256 {hashlib.sha256(model).hexdigest()}  {len(model)} bytes")
  characters = "\0".join(text).encode("utf-8")
  print(f"training text   SHA-256 {hashlib.sha256(characters).hexdigest()}  {len(text)} documents")
  print(f"sentencepiece       {importlib.metadata.version('sentencepiece')}")
  for distribution, version in corpus.provenance().items():
    print(f"{distribution:<20}{version}")


if __name__ == "__main__":
  main()
