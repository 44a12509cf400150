#!/usr/bin/env bash
# Looks at the environment for GPUs and prints a table: versions, the plugin, every recipe's configuration, what we use of
# verl, vLLM and transformers, and the tests. Without a GPU it leaves out the tests that need one.
# bash tests/gpu/stack.sh [--without-tests]
#
# An active environment with leafe-verl is used. Otherwise recipes/setup.sh makes .venv, as a recipe does on a machine with
# GPUs: its variables count here, too.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
export SETUP_DEVICE="${SETUP_DEVICE:-gpu}"
. "$ROOT/recipes/setup.sh"
cd "$ROOT"
exec python tests/gpu/stack.py "$@"
