#!/usr/bin/env bash
# verl's GRPO on ALFWorld (needs pip install leafe-verl[alfworld]), for comparison with recipes/leafe_alfworld.sh.
# bash recipes/grpo_alfworld.sh [OVERRIDE...], any of verl's or ours, as in: leafe.environment.options.processes=32
. "$(dirname "${BASH_SOURCE[0]}")/common.sh" alfworld

train grpo actor_rollout_ref.rollout.n=8 "$@"
