#!/usr/bin/env bash
# A recipe as a job of a Ray cluster that runs already. Its nodes must have the environment (start Ray from it on each of
# them), and must see RUN_DIR and MODEL. Run it in the checkout, which goes to the cluster without what .gitignore names, with
# the environment active (. .venv/bin/activate):
#   RUN_DIR=/shared/runs/mine NODES=4 bash recipes/cluster/ray_job.sh recipes/leafe_mbpp.sh [OVERRIDE...]
#
#   MODEL, TRAIN_FILES, VAL_FILES   as for the recipe; so is LEAFE_CPU_DTYPE
#   NODES, GPUS                     nodes of the run, and GPUs of each (default 1 and 8)
#   RAY_API_SERVER_ADDRESS          the cluster's dashboard (default http://127.0.0.1:8265)
#
# The job begins on the cluster's head. If that has no GPU, say so: add the override device=gpu. Ray hands the command to a
# shell once more, so that overrides with quotes, $ or parentheses need quoting for that, too.
set -euo pipefail
if [[ ${RUN_DIR:-} != /* ]]; then
    echo "RUN_DIR is ${RUN_DIR:-missing}; expected an absolute folder that every node sees, as in RUN_DIR=/shared/runs/mine" >&2
    exit 2
fi
recipe=${1:?name a recipe, as in: bash recipes/cluster/ray_job.sh recipes/leafe_mbpp.sh}
shift

# They go with the command: Ray refuses a variable that is named in a job's runtime environment and in verl's.
variables=()
for name in RUN_DIR MODEL TRAIN_FILES VAL_FILES LEAFE_CPU_DTYPE; do
    [ -z "${!name:-}" ] || variables+=("$name=${!name}")
done
# What the run prints at its end is to be typed where this was, and not in the job.
printf -v again 'NODES=%s GPUS=%s bash %q %q' "${NODES:-1}" "${GPUS:-8}" "$0" "$recipe"
variables+=("LEAFE_SUBMIT=$again")
# Ray 2.60 makes a token in the first run on a machine, and asks every client of the clusters that start later for it. Its
# other commands send it; `ray job` must be told to.
if [ -z "${RAY_AUTH_MODE:-}" ] && [ -e "${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}" ]; then export RAY_AUTH_MODE=token; fi
exec ray job submit --address "${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}" --working-dir . -- \
    env "${variables[@]}" bash "$recipe" trainer.nnodes="${NODES:-1}" trainer.n_gpus_per_node="${GPUS:-8}" "$@"
