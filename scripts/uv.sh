#!/usr/bin/env bash
# Run uv: the one that is installed, or one that pip installs, for the user or in a small environment of its own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

works() { "$@" --version >/dev/null 2>&1; }

if works uv; then exec uv "$@"; fi
if works python3 -m uv; then exec python3 -m uv "$@"; fi
if works .venv-uv/bin/uv; then exec .venv-uv/bin/uv "$@"; fi

echo 'installing uv with pip' >&2
# In an environment of its own: a system's Python often refuses `pip install` (PEP 668).
if python3 -m venv .venv-uv >/dev/null 2>&1 && .venv-uv/bin/python -m pip install --quiet uv; then
  exec .venv-uv/bin/uv "$@"
fi
rm -rf .venv-uv
if python3 -m pip install --quiet --user uv || python3 -m pip install --quiet uv; then
  exec python3 -m uv "$@"
fi
echo 'uv could not be installed with pip; install it by hand (https://docs.astral.sh/uv) and try again' >&2
exit 1
