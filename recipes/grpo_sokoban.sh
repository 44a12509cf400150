#!/usr/bin/env bash
# verl's GRPO on Sokoban, for comparison with recipes/leafe_sokoban.sh.
# bash recipes/grpo_sokoban.sh [OVERRIDE...], any of verl's or ours, as in: +leafe.environment.options.num_boxes=2
. "$(dirname "${BASH_SOURCE[0]}")/common.sh" sokoban

train grpo actor_rollout_ref.rollout.n=8 "$@"
