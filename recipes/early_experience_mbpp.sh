#!/usr/bin/env bash
# Early Experience on interactive MBPP: predict the feedback, then imitate successes; for comparison with LEAFE.
# bash recipes/early_experience_mbpp.sh [OVERRIDE...], any of verl's or ours, as in: trainer.total_training_steps=8
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

exec python -m verl.trainer.main_ppo --config-path pkg://leafe_verl.plugin.config --config-name early_experience environment=mbpp "$@"
