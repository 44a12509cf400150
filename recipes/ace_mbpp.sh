#!/usr/bin/env bash
# ACE on interactive MBPP: advice kept in the prompt, nothing trained; for comparison with LEAFE.
# bash recipes/ace_mbpp.sh [OVERRIDE...]; the advice goes to RUN_DIR/checkpoints/playbook.json, and any recipe or
# evaluation plays with it when given leafe.playbook.path=FILE.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh" mbpp

train ace trainer.save_freq=-1 actor_rollout_ref.rollout.n=8 "$@"
