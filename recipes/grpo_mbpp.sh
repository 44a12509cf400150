#!/usr/bin/env bash
# verl's GRPO on interactive MBPP, for comparison with recipes/leafe_mbpp.sh.
# bash recipes/grpo_mbpp.sh [OVERRIDE...], any of verl's or ours, as in: trainer.total_training_steps=8
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

exec python -m verl.trainer.main_ppo --config-path pkg://leafe_verl.plugin.config --config-name grpo environment=mbpp "$@"
