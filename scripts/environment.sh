# SPDX-License-Identifier: Apache-2.0
# Sourced by the other scripts: finds a Python, makes its virtual environment, installs switch_t5.
#   PYTHON=...   the interpreter to use; else the newest supported one that is found
# Sets VENV_PYTHON, and moves to the repository's root.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Prints the interpreters called python3.MINOR, pyenv's included, best guess first.
find_python() {
  local minor=$1 candidate
  for candidate in "$(command -v "python3.$minor" || true)" \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3."$minor".*/bin/python; do
    # pyenv's shims exist for versions that are not active, hence the trial run.
    if [ -x "$candidate" ] && "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

# Makes and fills .venv-VERSION; installs again only when the packaging has changed.
enter_environment() {
  local python=${PYTHON:-} version venv stamp minor
  if [ -z "$python" ]; then
    for minor in 13 12 11; do
      python=$(find_python "$minor") && break
    done
  fi
  if [ -z "$python" ]; then
    echo "No Python 3.11, 3.12 or 3.13 with venv found: install one, or set PYTHON=/path/to/python." >&2
    exit 2
  fi
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  venv=.venv-$version
  stamp=$(cat setup.py pyproject.toml | cksum)
  VENV_PYTHON=$venv/bin/python
  if [ "$(cat "$venv/installed" 2>/dev/null)" != "$stamp" ]; then
    echo "Installing switch_t5 into $venv (Python $version; a few minutes the first time) ..." >&2
    [ -x "$VENV_PYTHON" ] || "$python" -m venv "$venv"
    "$VENV_PYTHON" -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
    echo "$stamp" > "$venv/installed"
  fi
}
