#!/usr/bin/env bash
# Make .venv from requirements.lock, and in it the command `agevlm`. Needs Python 3.11 or newer and pip's own registry.
# AGEVLM_PYTHON names the Python of a new .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=$(pwd -P)
tested='3.11 3.13' # the versions that the tests run with; the first is preferred
unset VIRTUAL_ENV PYTHONHOME PYTHONPATH CONDA_PREFIX

case $folder in *[:[:cntrl:]]*)
  echo "the project's path has a colon or a control character, which Python's search path cannot take: $folder" >&2
  echo "move the project, and run make setup there" >&2
  exit 1 ;;
esac

fits() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' 2>/dev/null; }

# The programs in .venv contain the path of their folder: after a move .venv is made again.
if [ "$(cat .venv/.ready 2>/dev/null)" != "$folder" ] || ! fits .venv/bin/python; then
  found=''
  for candidate in ${AGEVLM_PYTHON:-} "python${tested%% *}" python3 python3.12 python3.13 python3.14 python; do
    if fits "$candidate"; then
      found=$(command -v "$candidate")
      break
    fi
  done
  if [ -z "$found" ]; then
    echo "Python 3.11 or newer is needed; found $(python3 --version 2>&1 || echo none)" >&2
    exit 1
  fi
  BASE_PYTHON=$found scripts/uv.sh venv --quiet --clear --python "$found" .venv
fi
# Compiled now, so that the first run is not slowed down by it.
BASE_PYTHON=$(.venv/bin/python -c 'import sys; print(sys._base_executable)') \
  scripts/uv.sh pip sync --compile-bytecode --python .venv/bin/python requirements.lock

# The project runs in its folder and is never installed as a package, so its command is written here.
root=$(printf '%s' "$folder" | sed "s/'/'\\\\''/g") # as it stands between quotes
cat > .venv/bin/agevlm <<LAUNCHER
#!/bin/sh
unset PYTHONHOME PYTHONWARNINGS PYTHONOPTIMIZE PYTHONSAFEPATH PYTHONINSPECT PYTHONVERBOSE PYTHONDEBUG
PYTHONPATH='$root' exec '$root/.venv/bin/python' -P -m flows "\$@"
LAUNCHER
chmod +x .venv/bin/agevlm
printf '%s\n' "$folder" > .venv/.ready

version=$(.venv/bin/python -c 'import sys; print("{}.{}".format(*sys.version_info))')
echo "ready: Python $version in $folder/.venv; the command is .venv/bin/agevlm"
if [[ " $tested " != *" $version "* ]]; then
  echo "note: the tests run with Python ${tested// / and }; they were not run with $version"
fi
