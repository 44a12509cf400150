#!/usr/bin/env bash
#SBATCH --job-name=leafe
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --output=slurm-%j.txt
# A recipe on several nodes under Slurm. Submit it from the checkout, which all nodes must see, as they must RUN_DIR:
#   RUN_DIR=/shared/runs/mine sbatch --nodes=4 recipes/cluster/slurm.sh recipes/leafe_mbpp.sh [OVERRIDE...]
# Make the environment first, where there is a network: SETUP_DEVICE=gpu bash -c '. recipes/setup.sh'
#
#   MODEL, TRAIN_FILES, VAL_FILES, ...   as for the recipe; sbatch hands the environment on
#   GPUS       GPUs of a node (default: what Slurm gives; without GPUs 1, which is a logical one)
#   NUM_CPUS   Ray's cores of a node, which are logical ones (default: what it has; a run with 8 GPUs needs up to 34)
#   RAY_PORT   port of Ray's head (default: one that follows from the job's number)
#
# The same command goes on with a run that was stopped, as by a time limit or a node that failed.
set -euo pipefail
if [[ ${RUN_DIR:-} != /* ]]; then
    echo "RUN_DIR is ${RUN_DIR:-missing}; expected an absolute folder that every node sees, as in RUN_DIR=/shared/runs/mine" >&2
    exit 2
fi
recipe=${1:?name a recipe, as in: sbatch recipes/cluster/slurm.sh recipes/leafe_mbpp.sh}
shift
. "$(dirname "$recipe")/setup.sh"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
gpus=${GPUS:-${SLURM_GPUS_ON_NODE:-1}}
resources=(--num-gpus="$gpus" ${NUM_CPUS:+--num-cpus="$NUM_CPUS"})

# on NODE COMMAND...: become a command on a node of this job, beside what runs there already and with all cores.
on() { exec srun --overlap --cpu-bind=none --nodes=1 --ntasks=1 --nodelist="$1" "${@:2}"; }

# As in ray_job.sh: a head asks for the token that an earlier run has made, and a node or client with an explicit address
# does not send it by itself.
if [ -z "${RAY_AUTH_MODE:-}" ] && [ -e "${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}" ]; then export RAY_AUTH_MODE=token; fi

# The address of the first node that others can reach: some systems map a host's name to itself, as 127.0.1.1.
ip=$(on "${nodes[0]}" bash -c 'hostname --ip-address; hostname --all-ip-addresses' | tr ' ' '\n' \
    | grep -E '^[0-9]+(\.[0-9]+){3}$' | grep -m 1 -v '^127\.')
export RAY_ADDRESS=$ip:${RAY_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
# Ray's processes end with the step that started them, and the steps with this script. What `ray start` leaves on a node
# would make the next run there look for this cluster.
end() {
    kill $(jobs -p) 2>/dev/null || true
    for node in "${nodes[@]}"; do
        (on "$node" rm -f /tmp/ray/ray_current_cluster) || true
    done
}
trap end EXIT

on "${nodes[0]}" ray start --head --node-ip-address="$ip" --port="${RAY_ADDRESS##*:}" "${resources[@]}" --block &
tries=0
until ray status --address "$RAY_ADDRESS" >/dev/null 2>&1; do
    if [ $((tries += 1)) -gt 60 ] || ! kill -0 $! 2>/dev/null; then
        echo "Ray's head did not start on ${nodes[0]}; what it said is above" >&2
        exit 1
    fi
    sleep 2
done
for node in "${nodes[@]:1}"; do
    on "$node" ray start --address="$RAY_ADDRESS" "${resources[@]}" --block &
done

# What the run prints at its end is to be typed after this job, whose cluster is gone by then.
printf -v LEAFE_SUBMIT 'sbatch --nodes=%s %q %q' "${#nodes[@]}" "$(dirname "$recipe")/cluster/slurm.sh" "$recipe"
export LEAFE_SUBMIT

# The run waits for nodes that are still joining, and checks that each of them sees RUN_DIR and the model.
bash "$recipe" trainer.nnodes="${#nodes[@]}" trainer.n_gpus_per_node="$gpus" "$@"
