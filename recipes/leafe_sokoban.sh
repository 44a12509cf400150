#!/usr/bin/env bash
# LEAFE on Sokoban: explore, reflect, roll back, branch, distil.
# bash recipes/leafe_sokoban.sh [OVERRIDE...], any of verl's or ours, as in: +leafe.environment.options.num_boxes=2
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

exec python -m verl.trainer.main_ppo --config-path pkg://leafe_verl.plugin.config --config-name leafe environment=sokoban "$@"
