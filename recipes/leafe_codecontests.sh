#!/usr/bin/env bash
# LEAFE on interactive CodeContests: explore, reflect, roll back, branch, distil.
# bash recipes/leafe_codecontests.sh [OVERRIDE...], any of verl's or ours; deepmind/code_contests from the hub where there are GPUs,
# else problems of our own.
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

exec python -m verl.trainer.main_ppo --config-path pkg://leafe_verl.plugin.config --config-name leafe environment=codecontests "$@"
