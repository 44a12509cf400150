#!/usr/bin/env bash
# Sets itself up and runs every benchmark of speed; names choose, as in: bash tests/benchmarks/run.sh start step
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
. "$ROOT/recipes/setup.sh"
cd "$ROOT"
exec python tests/benchmarks/run.py "$@"
