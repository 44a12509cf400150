#!/usr/bin/env bash
# LEAFE on interactive MBPP: explore, reflect, roll back, branch, distil.
# bash recipes/leafe_mbpp.sh [OVERRIDE...], any of verl's or ours, as in: trainer.total_epochs=2 leafe.budget.depth=3
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

train leafe \
    leafe.environment.name=mbpp \
    trainer.test_freq=1000 trainer.save_freq=1000 \
    actor_rollout_ref.rollout.n=4 \
    leafe.budget.attempts=8 \
    "$@"
