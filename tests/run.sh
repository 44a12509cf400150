#!/usr/bin/env bash
# Sets itself up and runs everything that needs no GPU. Arguments go to pytest, as in: bash tests/run.sh tests/core
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$ROOT/recipes/setup.sh"
cd "$ROOT"
if [ $# -eq 0 ]; then
    ruff check .
    mypy
fi
exec python -m pytest -q --durations=8 "$@"
