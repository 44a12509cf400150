#!/usr/bin/env bash
# verl's GRPO on ALFWorld (needs pip install leafe-verl[alfworld]), for comparison with recipes/leafe_alfworld.sh.
# bash recipes/grpo_alfworld.sh [OVERRIDE...], any of verl's or ours, as in: leafe.environment.options.processes=32
DATA="$(cd "$(dirname "${BASH_SOURCE[0]}")/../leafe_verl/data" && pwd)"
: "${TRAIN_FILES:=$DATA/embedded_alfworld_train.jsonl}" "${VAL_FILES:=$DATA/embedded_alfworld_heldout.jsonl}"
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Room for the whole attempt, or, without a GPU, a few steps: a first look takes minutes.
if [ "$NUM_GPUS" -gt 0 ]; then DEVICE_ARGS+=(data.max_response_length=14336 leafe.generation.max_tokens=256)
else DEVICE_ARGS+=(leafe.environment.horizon=6); fi

train grpo \
    leafe.environment.name=alfworld \
    trainer.test_freq=1000 trainer.save_freq=1000 \
    actor_rollout_ref.rollout.n=8 \
    "$@"
