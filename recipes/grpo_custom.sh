#!/usr/bin/env bash
# verl's GRPO on an environment of your own, for comparison with recipes/leafe_custom.sh.
# TRAIN_FILES=train.jsonl VAL_FILES=val.jsonl bash recipes/grpo_custom.sh leafe.environment.name=package.module:Class [OVERRIDE...]
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

exec python -m verl.trainer.main_ppo --config-path pkg://leafe_verl.plugin.config --config-name grpo environment=custom "$@"
