#!/usr/bin/env bash
# LEAFE on WebShop (needs pip install leafe-verl[webshop]): explore, reflect, roll back, branch, distil.
# bash recipes/leafe_webshop.sh [OVERRIDE...], any of verl's or ours; by default in a shop of our own, and in the original's
# with +leafe.environment.options.product_file=..., goal_file and attribute_file, and task files of goal numbers.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh" webshop

train leafe actor_rollout_ref.rollout.n=4 leafe.budget.attempts=8 leafe.reflection.interval=5 "$@"
