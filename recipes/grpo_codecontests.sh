#!/usr/bin/env bash
# verl's GRPO on interactive CodeContests, for comparison with recipes/leafe_codecontests.sh.
# bash recipes/grpo_codecontests.sh [OVERRIDE...], any of verl's or ours; deepmind/code_contests from the hub where there are GPUs,
# else problems of our own.
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

exec python -m verl.trainer.main_ppo --config-path pkg://leafe_verl.plugin.config --config-name grpo environment=codecontests "$@"
