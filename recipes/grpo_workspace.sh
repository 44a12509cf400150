#!/usr/bin/env bash
# verl's GRPO on repositories with a defect, for comparison with recipes/leafe_workspace.sh.
# bash recipes/grpo_workspace.sh [OVERRIDE...], any of verl's or ours, as in: +leafe.environment.options.cpu_seconds=4
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

exec python -m verl.trainer.main_ppo --config-path pkg://leafe_verl.plugin.config --config-name grpo environment=workspace "$@"
