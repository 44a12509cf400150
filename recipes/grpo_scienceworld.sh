#!/usr/bin/env bash
# verl's GRPO on ScienceWorld (needs pip install leafe-verl[scienceworld] and Java), for comparison with recipes/leafe_scienceworld.sh.
# bash recipes/grpo_scienceworld.sh [OVERRIDE...], any of verl's or ours, as in: leafe.environment.options.processes=32
. "$(dirname "${BASH_SOURCE[0]}")/common.sh" scienceworld

train grpo actor_rollout_ref.rollout.n=8 "$@"
