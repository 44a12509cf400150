#!/usr/bin/env bash
# The comparison of LEAFE with its baselines and controls on interactive MBPP: every method is trained on an equal budget
# of environment steps and evaluated by plain attempts, and from the same failures of the base model.
# bash recipes/compare_mbpp.sh [OVERRIDE...]; overrides go to every training and evaluation.
#
# Base, GRPO, L_reh with the volume of LEAFE (reh_matched), L_cf alone (lcf), DPO (dpo), the paper's LEAFE alone (leafe)
# and from GRPO (leafe_rl), LEAFE with recovery targets (recovery), and ACE on GRPO (ace). LEAFE and its controls distil
# one exploration of the base model, which is the budget. leafe_rl and ace spend half of it by GRPO.
#
#   MBPP            what train, development and held-out tasks are drawn from: a task file (.jsonl), such as mbpp.jsonl
#                   of google-research on GitHub, or hub:OWNER/NAME/CONFIGURATION/SPLIT. Default: MBPP from the hub with
#                   GPUs, and 96 easy tasks of our own without
#   TRAIN_TASKS, DEV_TASKS, TASKS        how many of each, TRAIN_TASKS a multiple of 2 x BATCH; SPLIT_SEED draws them
#   METHODS         some of the names above, and reh_recovery (L_reh with the volume of recovery), early_experience,
#                   kl (leafe with the softer loss) and kl_nll (with half of either)
#   SEEDS           training seeds
#   RATES           learning rates to choose from on the development tasks, the same for every method; one is not chosen
#   ATTEMPTS        attempts at a held-out task; ATTEMPTS_FEW for lcf, dpo, ace, reh_recovery and
#                   early_experience; ATTEMPTS_DEV at a development task; ATTEMPTS_GIVEN from each failure of the base
#                   model, 0: none
#   BUDGET          environment steps of one task's tree: room for four roots, two branches and four confirmations
#                   at least, since a tree without branches gives no counterfactual example
#   BATCH           tasks of one step of LEAFE; BATCH_EPISODES of one step of GRPO and ACE
#   RUN_DIR         naming an old one goes on where it stopped, also within a training or an evaluation
#
# Every finished cell is a line of RUN_DIR/cells.jsonl: commands, commit, machine, dtype, seed, figures, seconds, steps,
# tokens. The tables are RUN_DIR/comparison.md.
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

export RUN_DIR=${RUN_DIR:-$PWD/runs/compare_mbpp/$(date +%Y%m%d-%H%M%S)}
if [ "$(python -m leafe_verl.plugin.resolvers)" = gpu ]; then
    : "${TRAIN_TASKS:=256}" "${DEV_TASKS:=32}" "${TASKS:=128}" "${ATTEMPTS:=128}" "${ATTEMPTS_FEW:=32}" "${BUDGET:=36}"
    : "${BATCH:=64}" "${BATCH_EPISODES:=32}" "${MBPP:=hub:google-research-datasets/mbpp/full/train+validation}"
elif [ -n "${MBPP:-}" ]; then
    : "${TRAIN_TASKS:=128}" "${DEV_TASKS:=32}" "${TASKS:=64}" "${ATTEMPTS:=32}" "${ATTEMPTS_FEW:=16}" "${BUDGET:=28}"
    : "${BATCH:=32}" "${BATCH_EPISODES:=8}"
else
    : "${TRAIN_TASKS:=48}" "${DEV_TASKS:=16}" "${TASKS:=32}" "${ATTEMPTS:=8}" "${ATTEMPTS_FEW:=8}" "${BUDGET:=16}"
    : "${BATCH:=12}" "${BATCH_EPISODES:=4}"
fi
: "${ATTEMPTS_DEV:=8}" "${ATTEMPTS_GIVEN:=4}" "${SPLIT_SEED:=0}"
: "${MBPP:=$(python -c 'from leafe_verl.embedded import TRAIN_FILE; print(TRAIN_FILE)')}"
export MBPP TRAIN_TASKS DEV_TASKS TASKS ATTEMPTS ATTEMPTS_FEW ATTEMPTS_DEV ATTEMPTS_GIVEN SPLIT_SEED BUDGET BATCH
export BATCH_EPISODES

exec python -m leafe_verl.experiments "$@"
