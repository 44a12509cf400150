#!/usr/bin/env bash
# LEAFE on ScienceWorld (needs pip install leafe-verl[scienceworld] and Java): explore, reflect, roll back, branch, distil.
# bash recipes/leafe_scienceworld.sh [OVERRIDE...], any of verl's or ours, as in: leafe.environment.options.processes=32
. "$(dirname "${BASH_SOURCE[0]}")/common.sh" scienceworld

train leafe actor_rollout_ref.rollout.n=4 leafe.budget.attempts=8 leafe.reflection.interval=5 "$@"
