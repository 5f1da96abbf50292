#!/usr/bin/env bash
# Make .venv from requirements.lock, and in it the command `agevlm`. Needs Python 3.11 or 3.12 and pip's own registry.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
unset VIRTUAL_ENV PYTHONHOME PYTHONPATH CONDA_PREFIX

python=''
for candidate in python3 python3.12 python3.11 python; do
  if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; then
    python=$(command -v "$candidate")
    break
  fi
done
if [ -z "$python" ]; then
  echo "Python 3.11 or 3.12 is needed; found $(python3 --version 2>&1 || echo none)" >&2
  exit 1
fi

if ! .venv/bin/python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; then
  scripts/uv.sh venv --quiet --clear --python "$python" .venv
fi
# Compiled now, so that the first run does not spend its time on it.
scripts/uv.sh pip sync --compile-bytecode --python .venv/bin/python requirements.lock

# The project is run where it lies and never installed as a package, so its command is written here.
cat > .venv/bin/agevlm <<LAUNCHER
#!/bin/sh
PYTHONPATH='$root' exec '$root/.venv/bin/python' -P -m flows "\$@"
LAUNCHER
chmod +x .venv/bin/agevlm
touch .venv/.ready
echo "ready: $(.venv/bin/python --version) in $root/.venv; the command is .venv/bin/agevlm"
