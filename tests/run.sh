#!/usr/bin/env bash
# Sets itself up and runs everything that needs no GPU. Arguments go to pytest, as in: bash tests/run.sh tests/core
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$ROOT/recipes/setup.sh"
cd "$ROOT"
# An environment that was there before, as in verl's images, may lack the tools.
missing=$(python -c 'import sys; from importlib.util import find_spec
print(*[name for name in sys.argv[1:] if not find_spec(name)])' pytest ruff mypy)
if [ -n "$missing" ]; then
    echo "the active Python lacks what the tests need; fix it with: pip install $missing" >&2
    exit 1
fi
if [ $# -eq 0 ]; then
    ruff check .
    mypy
fi
exec python -m pytest -q --durations=8 "$@"
