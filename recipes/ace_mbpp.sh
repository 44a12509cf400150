#!/usr/bin/env bash
# ACE on interactive MBPP: advice kept in the prompt, nothing trained; for comparison with LEAFE.
# bash recipes/ace_mbpp.sh [OVERRIDE...]; the advice goes to RUN_DIR/checkpoints/playbook.json, and any recipe or
# evaluation plays with it when given leafe.playbook.path=FILE.
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

exec python -m verl.trainer.main_ppo --config-path pkg://leafe_verl.plugin.config --config-name ace environment=mbpp "$@"
