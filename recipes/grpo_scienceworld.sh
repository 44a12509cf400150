#!/usr/bin/env bash
# verl's GRPO on ScienceWorld (needs pip install leafe-verl[scienceworld] and Java), for comparison with recipes/leafe_scienceworld.sh.
# bash recipes/grpo_scienceworld.sh [OVERRIDE...], any of verl's or ours, as in: +leafe.environment.options.processes=32
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

exec python -m verl.trainer.main_ppo --config-path pkg://leafe_verl.plugin.config --config-name grpo environment=scienceworld "$@"
