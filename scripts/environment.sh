# SPDX-License-Identifier: Apache-2.0
# Sourced by the other scripts: finds a Python, makes its virtual environment, installs switch_t5.
#   PYTHON=...             the interpreter to use; else the newest supported one that is found
#   SWITCH_T5_EXTRAS=...   the package's extras to install; else dev
# Sets VENV_PYTHON, and moves to the repository's root.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Prints a Python 3.MINOR that can make virtual environments, or fails; finds pyenv's too.
find_python() {
  local minor=$1 candidate
  for candidate in "python3.$minor" python3 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3."$minor".*/bin/python; do
    # Tried rather than looked up: pyenv's shims also exist for versions that are not active.
    if "$candidate" -c "import sys, venv, pip; sys.exit(sys.version_info[:2] != (3, $minor))" 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

# Makes and fills .venv-VERSION; installs again only when the packaging has changed.
enter_environment() {
  local python=${PYTHON:-} extras=${SWITCH_T5_EXTRAS:-dev} version venv stamp minor
  if [ -z "$python" ]; then
    for minor in 13 12 11; do
      python=$(find_python "$minor") && break
    done
  fi
  if [ -z "$python" ]; then
    echo "No Python 3.11, 3.12 or 3.13 with pip was found. Install one, or set PYTHON=/path/to/python." >&2
    exit 2
  fi
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  case $version in
    3.11 | 3.12 | 3.13) ;;
    *)
      echo "Python 3.11, 3.12 or 3.13 is needed; $python is Python $version." >&2
      exit 2
      ;;
  esac
  venv=.venv-$version
  stamp="$(cat setup.py pyproject.toml | cksum) $extras"
  VENV_PYTHON=$venv/bin/python
  if [ "$(cat "$venv/installed" 2>/dev/null)" != "$stamp" ]; then
    echo "Installing switch_t5 into $venv (Python $version; a few minutes the first time) ..." >&2
    if [ ! -x "$venv/bin/pip" ]; then
      # Debian's python3 comes without ensurepip; its pip can fill the environment from outside.
      "$python" -m venv --clear --without-pip "$venv"
      "$python" -m pip --quiet --python "$VENV_PYTHON" install pip
    fi
    "$VENV_PYTHON" -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"
    echo "$stamp" > "$venv/installed"
  fi
}
