#!/usr/bin/env bash
# LEAFE on interactive MBPP: explore, reflect, roll back, branch, distil.
# bash recipes/leafe_mbpp.sh [OVERRIDE...], any of verl's or ours, as in: trainer.total_epochs=2 leafe.budget.depth=3
. "$(dirname "${BASH_SOURCE[0]}")/common.sh" mbpp

train leafe actor_rollout_ref.rollout.n=4 leafe.budget.attempts=8 "$@"
