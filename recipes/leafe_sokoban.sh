#!/usr/bin/env bash
# LEAFE on Sokoban: explore, reflect, roll back, branch, distil.
# bash recipes/leafe_sokoban.sh [OVERRIDE...], any of verl's or ours, as in: +leafe.environment.options.num_boxes=2
. "$(dirname "${BASH_SOURCE[0]}")/common.sh" sokoban

train leafe actor_rollout_ref.rollout.n=4 leafe.budget.attempts=8 leafe.reflection.interval=5 "$@"
