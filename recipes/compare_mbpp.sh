#!/usr/bin/env bash
# The paper's comparison on interactive MBPP: Base, GRPO, Early Experience, ACE, LEAFE and LEAFE + RL, each trained on
# the same interaction, evaluated by plain attempts, put into one table and one picture.
# bash recipes/compare_mbpp.sh [OVERRIDE...]; overrides go to every training and evaluation.
#
#   STEPS      training steps of each method; LEAFE + RL takes half of GRPO's and the rest of LEAFE's
#   BUDGET     environment steps of one task in LEAFE's training: about what the others' eight plain attempts take
#   ATTEMPTS   attempts at each held-out task; Pass@k is known up to this k
#   TASKS      held-out tasks
#   RUN_DIR    naming an old one goes on where it stopped: what is there already is not done again
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

RUN_DIR=${RUN_DIR:-$PWD/runs/compare_mbpp/$(date +%Y%m%d-%H%M%S)}
OVERRIDES=("$@")
if [ "$(python -m leafe_verl.plugin.resolvers)" = gpu ]; then
    : "${STEPS:=10}" "${BUDGET:=24}" "${ATTEMPTS:=128}" "${TASKS:=500}"
else
    : "${STEPS:=3}" "${BUDGET:=14}" "${ATTEMPTS:=32}" "${TASKS:=16}"
    # Sixteen tasks a step, but for two: a task whose roots all succeed leaves LEAFE some of its budget, and ACE's
    # attempts take more steps than those of a policy that learns.
    LEAFE_ARGS=(data.train_batch_size=18) ACE_ARGS=(data.train_batch_size=15)
    # Two turns of 64 tokens: most turns of this model are cut, and without them few examples would be left.
    OVERRIDES=(leafe.distillation.incomplete_actions=true "$@")
fi
HALF=$(((STEPS + 1) / 2))
# The paper's method, not the recipes' recommended one.
LEAFE_BUDGET=(preset=paper leafe.budget.environment_steps="$BUDGET" leafe.budget.attempts="$BUDGET")

# training NAME RECIPE MODEL STEPS [OVERRIDE...]
training() {
    local name=$1 recipe=$2 model=$3 steps=$4
    shift 4
    [ -e "$RUN_DIR/$name/trained" ] && return
    MODEL=$model RUN_DIR=$RUN_DIR/$name bash "$ROOT/recipes/$recipe.sh" trainer.total_training_steps="$steps" \
        trainer.val_before_train=false trainer.test_freq=-1 ${OVERRIDES[@]+"${OVERRIDES[@]}"} "$@"
    touch "$RUN_DIR/$name/trained"
}

# evaluation NAME MODEL [OVERRIDE...]
evaluation() {
    local name=$1 model=$2
    shift 2
    MODEL=$model python -m leafe_verl evaluate --max-tasks "$TASKS" --attempts "$ATTEMPTS" \
        --out "$RUN_DIR/$name/evaluation" ${OVERRIDES[@]+"${OVERRIDES[@]}"} "$@"
}

checkpoint() { echo "$RUN_DIR/$1/checkpoints/global_step_$2"; }

training grpo grpo_mbpp "${MODEL:-}" "$STEPS" trainer.save_freq="$HALF"
training leafe leafe_mbpp "${MODEL:-}" "$STEPS" "${LEAFE_BUDGET[@]}" ${LEAFE_ARGS[@]+"${LEAFE_ARGS[@]}"}
# Other tasks than the first half saw.
training leafe_rl leafe_mbpp "$(checkpoint grpo "$HALF")" "$((STEPS - HALF))" data.seed=2 "${LEAFE_BUDGET[@]}"
training early_experience early_experience_mbpp "${MODEL:-}" "$STEPS"
training ace ace_mbpp "${MODEL:-}" "$STEPS" ${ACE_ARGS[@]+"${ACE_ARGS[@]}"}

evaluation base "${MODEL:-}"
evaluation leafe "$(checkpoint leafe "$STEPS")"
evaluation grpo "$(checkpoint grpo "$STEPS")"
evaluation leafe_rl "$(checkpoint leafe_rl "$((STEPS - HALF))")"
evaluation early_experience "$(checkpoint early_experience "$STEPS")"
evaluation ace "${MODEL:-}" leafe.playbook.path="$RUN_DIR/ace/checkpoints/playbook.json"

compared=() trained=()
for name in base grpo early_experience ace leafe leafe_rl; do
    compared+=("$name=$RUN_DIR/$name/evaluation")
    if [ -e "$RUN_DIR/$name/trained" ]; then trained+=("$name=$RUN_DIR/$name"); fi
done
python -m leafe_verl compare "${compared[@]}" --training "${trained[@]}" "leafe_rl=$RUN_DIR/grpo@$HALF" \
    --baseline base --out "$RUN_DIR/comparison"
