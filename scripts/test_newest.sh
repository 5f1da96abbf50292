#!/usr/bin/env bash
# Run `make check` and `make test` with the newest installed Python, if it is newer than the one of .venv: in a clone of
# the last commit in a temporary folder, which is removed at the end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

minor() { "$1" -c 'import sys; print(sys.version_info[1] if sys.version_info[0] == 3 else 0)' 2>/dev/null || echo 0; }

newest=.venv/bin/python
for candidate in python3.{12..15} "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python; do
  if [ "$(minor "$candidate")" -gt "$(minor "$newest")" ]; then newest=$(command -v "$candidate"); fi
done
if [ "$newest" = .venv/bin/python ]; then
  echo "no Python newer than 3.$(minor "$newest") is installed: nothing to do"
  exit 0
fi

clone=$(mktemp -d)
trap 'rm -rf "$clone"' EXIT
git clone --quiet . "$clone/agevlm"
cd "$clone/agevlm"
export AGEVLM_PYTHON=$newest
make setup
make check
make test
