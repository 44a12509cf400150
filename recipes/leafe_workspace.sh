#!/usr/bin/env bash
# LEAFE on repositories with a defect: explore, reflect, roll back, branch, distil.
# bash recipes/leafe_workspace.sh [OVERRIDE...], any of verl's or ours, as in: +leafe.environment.options.cpu_seconds=4
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

exec python -m verl.trainer.main_ppo --config-path pkg://leafe_verl.plugin.config --config-name leafe environment=workspace "$@"
