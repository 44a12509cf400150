#!/usr/bin/env bash
# LEAFE on ALFWorld (needs pip install leafe-verl[alfworld]): explore, reflect, roll back, branch, distil.
# bash recipes/leafe_alfworld.sh [OVERRIDE...], any of verl's or ours, as in: +leafe.environment.options.processes=32
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

exec python -m verl.trainer.main_ppo --config-path pkg://leafe_verl.plugin.config --config-name leafe environment=alfworld "$@"
