#!/usr/bin/env bash
# Run uv: the installed one, or one that pip installs into .venv-uv or for the user, with the Python $BASE_PYTHON.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${BASE_PYTHON:-python3}

works() { "$@" --version >/dev/null 2>&1; }

if works uv; then exec uv "$@"; fi
if works "$python" -m uv; then exec "$python" -m uv "$@"; fi
if works .venv-uv/bin/uv; then exec .venv-uv/bin/uv "$@"; fi

echo 'installing uv with pip' >&2
# In a separate environment: a system's Python often refuses `pip install` (PEP 668).
if "$python" -m venv .venv-uv >/dev/null 2>&1 && .venv-uv/bin/python -m pip install --quiet uv; then
  exec .venv-uv/bin/uv "$@"
fi
rm -rf .venv-uv
if "$python" -m pip install --quiet --user uv || "$python" -m pip install --quiet uv; then
  exec "$python" -m uv "$@"
fi
echo 'uv could not be installed with pip; install it by hand (https://docs.astral.sh/uv) and try again' >&2
exit 1
