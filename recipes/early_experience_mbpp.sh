#!/usr/bin/env bash
# Early Experience on interactive MBPP: predict the feedback, then imitate successes; for comparison with LEAFE.
# bash recipes/early_experience_mbpp.sh [OVERRIDE...], any of verl's or ours, as in: trainer.total_epochs=2
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

train early_experience \
    leafe.environment.name=mbpp \
    trainer.test_freq=1000 trainer.save_freq=1000 \
    actor_rollout_ref.rollout.n=8 \
    "$@"
