#!/usr/bin/env bash
# verl's GRPO on interactive CodeContests, for comparison with recipes/leafe_codecontests.sh.
# bash recipes/grpo_codecontests.sh [OVERRIDE...], any of verl's or ours; by default on problems of our own, and with
# TRAIN_FILES=hub:deepmind/code_contests/default/train VAL_FILES=hub:deepmind/code_contests/default/test on the originals.
DATA="$(cd "$(dirname "${BASH_SOURCE[0]}")/../leafe_verl/data" && pwd)"
: "${TRAIN_FILES:=$DATA/embedded_codecontests_train.jsonl}" "${VAL_FILES:=$DATA/embedded_codecontests_heldout.jsonl}"
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Programs are longer than MBPP's functions.
if [ "$NUM_GPUS" -gt 0 ]; then DEVICE_ARGS+=(leafe.generation.max_tokens=1024)
else DEVICE_ARGS+=(leafe.generation.max_tokens=128); fi

train grpo \
    leafe.environment.name=codecontests \
    trainer.test_freq=1000 trainer.save_freq=1000 \
    actor_rollout_ref.rollout.n=8 \
    "$@"
