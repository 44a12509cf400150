#!/usr/bin/env bash
# Early Experience on interactive MBPP: predict the feedback, then imitate successes; for comparison with LEAFE.
# bash recipes/early_experience_mbpp.sh [OVERRIDE...], any of verl's or ours, as in: trainer.total_epochs=2
. "$(dirname "${BASH_SOURCE[0]}")/common.sh" mbpp

train early_experience actor_rollout_ref.rollout.n=8 "$@"
