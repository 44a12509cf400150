#!/usr/bin/env bash
# verl's GRPO on WebShop (needs pip install leafe-verl[webshop]), for comparison with recipes/leafe_webshop.sh.
# bash recipes/grpo_webshop.sh [OVERRIDE...], any of verl's or ours; by default in a shop of our own, and in the original's
# with +leafe.environment.options.product_file=..., goal_file and attribute_file, and task files of goal numbers.
DATA="$(cd "$(dirname "${BASH_SOURCE[0]}")/../leafe_verl/data" && pwd)"
: "${TRAIN_FILES:=$DATA/embedded_webshop_train.jsonl}" "${VAL_FILES:=$DATA/embedded_webshop_heldout.jsonl}"
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Room for the whole attempt, or, without a GPU, a few steps: a first look takes minutes.
if [ "$NUM_GPUS" -gt 0 ]; then DEVICE_ARGS+=(data.max_response_length=14336 leafe.generation.max_tokens=256)
else DEVICE_ARGS+=(data.max_response_length=3072 leafe.environment.horizon=6); fi

train grpo \
    leafe.environment.name=webshop \
    trainer.test_freq=1000 trainer.save_freq=1000 \
    actor_rollout_ref.rollout.n=8 \
    "$@"
