#!/usr/bin/env bash
# Stage 1 alone on interactive MBPP, nothing trained: independent sampling, iterative refinement and rollback branching
# at an equal budget of environment steps, and what rollback is without the experience.
# bash recipes/stage1_mbpp.sh [OVERRIDE...]; overrides go to every sampler, as in: leafe.generation.max_tokens=128
#
#   STEPS      environment steps of one task
#   TASKS      tasks of VAL_FILES
#   ROOTS      attempts of one task that begin anew, in all samplers but independent (default 4, 32 with GPUs)
#   SAMPLERS   which of them, by name; default all
#   RUN_DIR    naming an old one goes on where it stopped
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

RUN_DIR=${RUN_DIR:-$PWD/runs/stage1_mbpp/$(date +%Y%m%d-%H%M%S)}
OVERRIDES=("$@")
: "${SAMPLERS:=independent refinement rollback rollback_without_experience two_reflections}"
if [ "$(python -m leafe_verl.plugin.resolvers)" = gpu ]; then
    : "${STEPS:=512}" "${TASKS:=500}" "${ROOTS:=32}"
else
    : "${STEPS:=16}" "${TASKS:=32}" "${ROOTS:=4}"
fi

# sampler NAME [OVERRIDE...]: the steps alone bound a tree, since every attempt costs one at least.
sampler() {
    local name=$1
    shift
    [[ " $SAMPLERS " == *" $name "* ]] || return 0
    python -m leafe_verl evaluate --loop explore --max-tasks "$TASKS" \
        --attempts "$STEPS" --out "$RUN_DIR/$name" leafe.budget.environment_steps="$STEPS" \
        leafe.budget.depth="$STEPS" actor_rollout_ref.rollout.n="$ROOTS" ${OVERRIDES[@]+"${OVERRIDES[@]}"} "$@"
}

sampler independent actor_rollout_ref.rollout.n="$STEPS" leafe.budget.depth=0
sampler refinement leafe.reflection.rollback=start
sampler rollback
sampler rollback_without_experience leafe.reflection.experience=false
# Two reflections on each failed attempt: how often do they name the same step?
sampler two_reflections leafe.reflection.samples=2

compared=()
for name in $SAMPLERS; do
    compared+=("$name=$RUN_DIR/$name")
done
python -m leafe_verl compare "${compared[@]}" --baseline "${SAMPLERS%% *}" --out "$RUN_DIR/comparison"
