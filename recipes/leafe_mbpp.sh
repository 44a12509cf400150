#!/usr/bin/env bash
# LEAFE on interactive MBPP: explore, reflect, roll back, branch, distil.
# bash recipes/leafe_mbpp.sh [OVERRIDE...], any of verl's or ours, as in: trainer.total_training_steps=8 leafe.budget.depth=3
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

exec python -m verl.trainer.main_ppo --config-path pkg://leafe_verl.plugin.config --config-name leafe environment=mbpp "$@"
