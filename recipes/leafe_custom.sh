#!/usr/bin/env bash
# LEAFE on an environment of your own or of another library: explore, reflect, roll back, branch, distil.
# TRAIN_FILES=train.jsonl VAL_FILES=val.jsonl bash recipes/leafe_custom.sh leafe.environment.name=package.module:Class [OVERRIDE...]
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

exec python -m verl.trainer.main_ppo --config-path pkg://leafe_verl.plugin.config --config-name leafe environment=custom "$@"
