#!/usr/bin/env bash
# verl's GRPO on WebShop (needs pip install leafe-verl[webshop]), for comparison with recipes/leafe_webshop.sh.
# bash recipes/grpo_webshop.sh [OVERRIDE...], any of verl's or ours; by default in a shop of our own, and in the original's
# with +leafe.environment.options.product_file=..., goal_file and attribute_file, and task files of goal numbers.
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

exec python -m verl.trainer.main_ppo --config-path pkg://leafe_verl.plugin.config --config-name grpo environment=webshop "$@"
