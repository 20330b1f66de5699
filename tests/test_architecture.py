# SPDX-License-Identifier: Apache-2.0
"""The architecture, read from the code: ranks of imports, sizes, names, and what is loaded when.

docs/architecture.md explains the ranks: a package imports only packages of a lower one.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "switch_t5"

RANKS = {
  **dict.fromkeys(("types", "errors", "batch"), 0),
  **dict.fromkeys(("sharding", "storage"), 1),
  **dict.fromkeys(("layers", "scores"), 2),
  **dict.fromkeys(("model", "data", "losses", "metrics", "optim", "decoding", "reports"), 3),
  **dict.fromkeys(("training", "checkpoint", "distill", "inference"), 4),
  **dict.fromkeys(("evaluation", "interop", "planning"), 5),
  "studies": 6,
  "cli": 7,
}
ASSETS = {"configs": "cli", "assets": "data"}  # packaged files, and who may read them
MAX_FILE, MAX_FUNCTION = 400, 80
FORBIDDEN_NAMES = {"utils", "util", "common", "misc", "helpers", "helper"}
# Modules that wrap TensorFlow or seqio, and that others import inside functions only.
TENSORFLOW_MODULES = {
  "data.seqio_tasks",
  "data.streaming",
  "data.downstream.local_source",
  "evaluation.seqio_evaluation",
}
TENSORFLOW_ROOTS = {"tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio", "tf_keras"}

MODULES = sorted(PACKAGE.rglob("*.py"))
CODE = [
  path
  for folder in ("switch_t5", "configs", "data", "tests", "benchmarks")
  for path in sorted((REPOSITORY / folder).rglob("*.py"))
] + [REPOSITORY / "setup.py"]


def _name(path: Path) -> str:
  return str(path.relative_to(REPOSITORY))


def _module(path: Path) -> str:
  """Returns the dotted name below switch_t5, '' for the package itself."""
  parts = path.relative_to(PACKAGE).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _tree(path: Path) -> ast.Module:
  return ast.parse(path.read_text(encoding="utf-8"))


def _imports(node: ast.AST) -> list[str]:
  """Returns what the import statements of a tree name; `from a import b` as `a` and `a.b`."""
  names = []
  for statement in ast.walk(node):
    if isinstance(statement, ast.Import):
      names += [alias.name for alias in statement.names]
    elif isinstance(statement, ast.ImportFrom):
      assert statement.level == 0, "imports are absolute"
      names += [str(statement.module)]
      names += [f"{statement.module}.{alias.name}" for alias in statement.names]
  return names


def _imports_at_load(node: ast.AST) -> list[str]:
  """Returns the imports that run when the module is loaded: those outside functions."""
  names = []
  for child in ast.iter_child_nodes(node):
    if isinstance(child, ast.Import | ast.ImportFrom):
      names += _imports(child)
    elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
      continue
    elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
      names += _imports_at_load(child)
  return names


def _ours(names: list[str]) -> set[str]:
  """Returns the dotted names below switch_t5."""
  return {name.removeprefix("switch_t5.") for name in names if name.startswith("switch_t5.")}


def _unit(module: str) -> str:
  """Returns the top-level package or module of a dotted name below switch_t5."""
  return module.partition(".")[0]


@pytest.mark.smoke
@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_go_to_a_lower_rank(path):
  module = _module(path)
  unit = _unit(module)
  if not module:  # the package itself: above all, but it loads nothing until it is asked to
    assert not _ours(_imports_at_load(_tree(path)))
    return
  for name in _ours(_imports(_tree(path))):
    target = _unit(name)
    if target in ("", "__version__") or target == unit:
      continue
    if target in ASSETS:
      assert ASSETS[target] == unit, f"{module} reads {target}"
      continue
    assert target in RANKS, f"{module} imports switch_t5.{name}, which has no rank in design 7"
    assert unit in RANKS, f"{unit} has no rank"
    assert RANKS[target] < RANKS[unit], f"{module} imports {name}, which is not of a lower rank"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_layers_do_not_import_moe_layers(path):
  module = _module(path)
  if _unit(module) == "layers" and not module.startswith("layers.moe"):
    assert not [name for name in _ours(_imports(_tree(path))) if name.startswith("layers.moe")]


@pytest.mark.smoke
@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_gin_and_flags_are_known_to_the_command_line_only(path):
  if _unit(_module(path)) != "cli":
    for name in _imports(_tree(path)):
      assert name.partition(".")[0] != "gin", f"{name} outside cli"
      assert name == "absl" or not re.match(r"absl\.(flags|app)\b", name), f"{name} outside cli"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_tensorflow_is_not_imported_when_modules_load(path):
  at_load = _imports_at_load(_tree(path))
  module = _module(path)
  if module in TENSORFLOW_MODULES:
    return
  for name in at_load:
    assert name.partition(".")[0] not in TENSORFLOW_ROOTS, f"{module} imports {name} at load"
  assert not _ours(at_load) & TENSORFLOW_MODULES, f"{module} loads TensorFlow indirectly"


@pytest.mark.parametrize("path", CODE, ids=_name)
def test_files_and_functions_are_short(path):
  text = path.read_text(encoding="utf-8")
  assert len(text.splitlines()) <= MAX_FILE
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      length = (node.end_lineno or 0) - node.lineno + 1
      assert length <= MAX_FUNCTION, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", CODE, ids=_name)
def test_files_open_with_license_and_docstring(path):
  text = path.read_text(encoding="utf-8")
  assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n")
  assert ast.get_docstring(ast.parse(text)), "no module docstring"
  parts = {part.removesuffix(".py") for part in path.relative_to(REPOSITORY).parts}
  assert not parts & FORBIDDEN_NAMES, "name it after what it does"


def test_committed_files_name_no_path_of_a_machine():
  listed = subprocess.run(
    ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False
  )
  if listed.returncode:
    pytest.skip("not a git checkout")
  home = re.compile(r"(?<![\w.~$}])/(?:home|root|Users|mnt|work|workspace)/\w")
  for name in filter(None, listed.stdout.split("\0")):
    path = REPOSITORY / name
    if path.suffix in {".py", ".md", ".gin", ".sh", ".toml", ""} and path.is_file():
      found = home.search(path.read_text(encoding="utf-8", errors="ignore"))
      assert not found or path == Path(__file__).resolve(), f"{name}: {found}"


@pytest.mark.smoke
def test_the_command_line_and_training_load_without_tensorflow():
  modules = [_module(path) for path in MODULES]
  loaded = ["switch_t5.cli.main"] + [
    f"switch_t5.{module}"
    for module in modules
    if _unit(module) in ("model", "optim", "losses", "training", "checkpoint", "data", "cli")
    and module not in TENSORFLOW_MODULES
  ]
  program = (
    "import importlib, sys\n"
    f"for name in {loaded!r}:\n  importlib.import_module(name)\n"
    f"print(*sorted({TENSORFLOW_ROOTS!r} & sys.modules.keys()))"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == ""
