#!/usr/bin/env bash
# Sets itself up and runs everything that needs no GPU. Arguments go to pytest, as in: bash tests/run.sh tests/core
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$ROOT/recipes/setup.sh"
cd "$ROOT"
# An environment that was there before, as in verl's images, may lack the tools.
if ! python -c 'import mypy, pytest, ruff, xdist' 2>/dev/null; then
    echo "the active Python lacks what the tests need; fix it with: pip install mypy pytest pytest-xdist ruff" >&2
    exit 1
fi
if [ $# -gt 0 ]; then
    exec python -m pytest -q --durations=8 "$@"
fi
ruff check .
mypy
# Two files at a time. Then the runs of verl one by one, since each takes all of a small machine.
python -m pytest -q --durations=8 -m "not end_to_end" --numprocesses 2 --dist loadfile
python -m pytest -q --durations=8 -m end_to_end
