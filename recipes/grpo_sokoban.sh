#!/usr/bin/env bash
# verl's GRPO on Sokoban, for comparison with recipes/leafe_sokoban.sh.
# bash recipes/grpo_sokoban.sh [OVERRIDE...], any of verl's or ours, as in: +leafe.environment.options.num_boxes=2
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

exec python -m verl.trainer.main_ppo --config-path pkg://leafe_verl.plugin.config --config-name grpo environment=sokoban "$@"
