#!/usr/bin/env bash
# verl's GRPO on Sokoban, for comparison with recipes/leafe_sokoban.sh.
# bash recipes/grpo_sokoban.sh [OVERRIDE...], any of verl's or ours, as in: +leafe.environment.options.num_boxes=2
DATA="$(cd "$(dirname "${BASH_SOURCE[0]}")/../leafe_verl/data" && pwd)"
: "${TRAIN_FILES:=$DATA/embedded_sokoban_train.jsonl}" "${VAL_FILES:=$DATA/embedded_sokoban_heldout.jsonl}"
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Room for the whole attempt, or, without a GPU, a few steps: a first look takes minutes.
if [ "$NUM_GPUS" -gt 0 ]; then DEVICE_ARGS+=(leafe.generation.max_tokens=128)
else DEVICE_ARGS+=(leafe.environment.horizon=8); fi

train grpo \
    leafe.environment.name=sokoban \
    trainer.test_freq=1000 trainer.save_freq=1000 \
    actor_rollout_ref.rollout.n=8 \
    "$@"
