# SPDX-License-Identifier: Apache-2.0
"""The built wheel holds everything: each module imports, each gin file and asset opens."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
BUILD = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
IMPORT_ALL = """
import importlib, importlib.resources, pkgutil, switch_t5
print(switch_t5.__file__)
for module in pkgutil.walk_packages(switch_t5.__path__, "switch_t5."):
  if not module.name.startswith("switch_t5.assets."):  # scripts that made the assets
    importlib.import_module(module.name)
for package in ("switch_t5.configs", "switch_t5.assets"):
  root = importlib.resources.files(package)
  for path in sorted(root.rglob("*")):
    if path.is_file() and path.suffix in (".gin", ".model", ".txt", ".md"):
      assert path.read_bytes(), path
      print(package, path.relative_to(root).as_posix())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
  """Returns a folder with the unpacked wheel, as pip would lay it out."""
  source = tmp_path_factory.mktemp("source")
  ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
  for folder in ("switch_t5", "configs", "data"):
    shutil.copytree(REPOSITORY / folder, source / folder, ignore=ignore)
  for name in ("setup.py", "pyproject.toml", "LICENSE"):
    shutil.copy(REPOSITORY / name, source / name)
  subprocess.run(
    [sys.executable, "-W", "ignore", "-c", BUILD], cwd=source, check=True, capture_output=True
  )
  (wheel,) = (source / "dist").glob("*.whl")
  site = tmp_path_factory.mktemp("site")
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(site)
  return site


@pytest.mark.slow
def test_every_module_imports_and_every_gin_file_opens_from_the_wheel(installed):
  done = subprocess.run(
    [sys.executable, "-c", IMPORT_ALL],
    cwd=installed,
    env=os.environ | {"PYTHONPATH": str(installed)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  location, *found = done.stdout.splitlines()
  assert location.startswith(str(installed))
  expected = [
    f"{package} {path.relative_to(REPOSITORY / folder).as_posix()}"
    for package, folder in (("switch_t5.configs", "configs"), ("switch_t5.assets", "data"))
    for path in (REPOSITORY / folder).rglob("*")
    if path.suffix in (".gin", ".model", ".txt", ".md")
  ]
  assert sorted(found) == sorted(expected)
