"""The set-up of the recipes, with stand-ins for Python and pip: what it prints, and what it says when it fails."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

RECIPES = Path(__file__).parents[1] / "recipes"

PYTHON = """#!/bin/bash
case "$*" in
    --version) echo Python 3.11.9 ;;
    "-m venv "*) mkdir -p "$3/bin"; cp "$STUBS/pip" "$3/bin"; echo "PATH=$3/bin:\\$PATH" > "$3/bin/activate" ;;
    "-c import sys;"*) [ -z "${TOO_NEW:-}" ] ;;
    "-c "*" leafe-verl verl") [ -e .venv/ready ] && [ -z "${GONE:-}" ] && [[ $PATH == *.venv/bin:* ]] ;;
    "-c import ctypes"*) [ -z "${NO_NUMA:-}" ] ;;
    "-c import pip") [ -z "${NO_PIP:-}" ] ;;
    "-c "*" verl") [ -n "${HAS_VERL:-}" ] ;;
    *"print(VERL)") echo ">=0.9.1,<0.10" ;;
    *'version("setuptools")'*) [ -n "${NEW_SETUPTOOLS:-}" ] ;;
    *"takes_verl(version"*) echo "${HAS_VERL:-}"; [ "${HAS_VERL:-}" = 0.9.1 ] ;;
    "-m pip "*) echo "python $*" >> "$STUBS/calls" ;;
    -) echo a-requirement ;;
    *) exit 1 ;;
esac
"""
PIP = """#!/bin/bash
case "$*" in
    "config list")
        [ -n "${PIP_SETTINGS:-}" ] || exit 0
        # As pip does: whoever has read the first line alone has closed the pipe before the second comes.
        echo "$PIP_SETTINGS"; sleep 0.1; echo "global.timeout='60'"; exit ;;
    "index versions "*) [ -n "${INDEX_ANSWERS:-}" ]; exit ;;
esac
echo "Collecting $*"
echo "pip $*" >> "$STUBS/calls"
echo "$TMPDIR" > "$STUBS/tmpdir"
echo "$PYTHONPATH $PIP_USER" > "$STUBS/settings"
printf '\\033[31mERROR: pip'"'"'s dependency resolver does not take this into account.\\033[0m\\n' >&2
case "$*" in *--no-build-isolation*) [ -z "${UNBUILT:-}" ] || { echo "error: no CUDA_HOME" >&2; exit 1; } ;; esac
case "$*" in *verl*) [ -z "${FAILURE:-}" ] || { echo "$FAILURE" >&2; exit 1; } ;; esac
"""
DF = """#!/bin/bash
case "$*" in *shm*) printf 'a heading\nnone 0 0 %s 0 /\n' "${FREE_MB:-9999}"; exit ;; esac
[ -n "${FREE_KB:-}" ] || exec /bin/df "$@"
printf 'a heading\\nnone 0 0 %s 0 /\\n' "$FREE_KB"
"""
UNSET = ("PYTHON", "ROOM_MB", "SETUP_DEVICE", "FLASH_ATTN", "RAY_JOB_CONFIG_JSON_ENV_VAR")


@pytest.fixture
def set_up(tmp_path):
    """Return a function that runs the set-up of a checkout with the given variables."""
    stubs, checkout = tmp_path / "stubs", tmp_path / "checkout"
    stubs.mkdir()
    shutil.copytree(RECIPES, checkout / "recipes")
    (checkout / "pyproject.toml").touch()
    for name, text in {"pip": PIP, "df": DF, **dict.fromkeys(["python", "python3", "python3.11"], PYTHON)}.items():
        (stubs / name).write_text(text)
    for name in ("python3.12", "nvidia-smi", "nvcc"):
        (stubs / name).write_text("#!/bin/bash\nexit 1\n")
    for path in stubs.iterdir():
        path.chmod(0o755)
    path = {"PATH": f"{stubs}:{os.environ['PATH']}", "STUBS": str(stubs)}

    def start(**variables: str) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if name not in UNSET}
        command = ["bash", "-c", ". recipes/setup.sh; echo set up"]
        environment = {**kept, "ROOM_MB": "0", **path, **variables}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=checkout, env=environment, text=True, **pipes)

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        with start(**variables) as process:
            stdout, stderr = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    run.start = start  # type: ignore[attr-defined]
    run.checkout = checkout  # type: ignore[attr-defined]
    run.stubs = stubs  # type: ignore[attr-defined]
    return run


def calls(set_up) -> list[str]:
    """Return what was asked of pip, with the checkout's folder left out."""
    file = set_up.stubs / "calls"
    return file.read_text().replace(f"{set_up.checkout}", "ROOT").splitlines() if file.exists() else []


PINNED = "-c ROOT/recipes/constraints-gpu.txt"
ON_A_GPU = f"pip install {PINNED} -e ROOT[gpu,plots,webshop,test]"


def test_steps_are_printed_and_the_rest_is_in_the_log(set_up):
    done = set_up()
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) <= 8 and lines[-1] == "set up"
    assert "error" not in done.stdout.lower() and "Collecting" not in done.stdout
    log = (set_up.checkout / ".venv" / "setup.log").read_text()
    assert "dependency resolver" in log and "Collecting" in log
    assert set_up().stdout == "set up\n"  # once


def test_a_failure_ends_with_its_cause_and_goes_on_the_next_time(set_up):
    done = set_up(FAILURE="ERROR: No matching distribution found for verl==0.9.1")
    assert done.returncode == 1 and "set up" not in done.stdout.splitlines()
    assert done.stderr.splitlines() == [
        "The set-up failed at this:",
        "ERROR: No matching distribution found for verl==0.9.1",
        f"log: {set_up.checkout}/.venv/setup.log; the same command goes on from here",
    ]
    assert set_up().returncode == 0


def test_a_full_disk_is_said_before_anything_is_installed(set_up):
    done = set_up(ROOM_MB="999999999")
    assert done.returncode == 1 and "needs about 999999999 MB" in done.stderr and "more room" in done.stderr
    assert not (set_up.checkout / ".venv" / "bin").exists()


CPU_PINNED = "-c ROOT/recipes/constraints-cpu.txt"


@pytest.mark.parametrize(
    ("given", "asked", "said"),
    [
        (
            {"INDEX_ANSWERS": "1"},
            f"pip install {CPU_PINNED} --extra-index-url https://download.pytorch.org/whl/cpu torch",
            "torch, the CPU build: ",
        ),
        ({}, f"pip install {CPU_PINNED} torch", "since https://download.pytorch.org/whl/cpu does not answer: "),
        (
            {"INDEX_ANSWERS": "1", "PIP_SETTINGS": "global.index-url='https://mirror/simple'"},
            f"pip install {CPU_PINNED} torch",
            "torch, from where your pip settings say (with CUDA",
        ),
        (
            {"INDEX_ANSWERS": "1", "PIP_SETTINGS": ":env:.cert='/a/certificate'"},
            f"pip install {CPU_PINNED} --extra-index-url https://download.pytorch.org/whl/cpu torch",
            "torch, the CPU build: ",
        ),
    ],
)
def test_torch_is_the_cpu_build_where_its_index_answers_and_pip_is_not_told_otherwise(set_up, given, asked, said):
    done = set_up(**given)
    assert (done.returncode, done.stderr) == (0, "")
    assert calls(set_up)[0] == asked
    assert said in done.stdout


def test_the_cuda_build_needs_room_of_its_own(set_up):
    done = set_up(ROOM_MB="", FREE_KB=str(8000 * 1024))
    assert done.returncode == 1 and "the set-up needs about 13000 MB" in done.stderr and "8000 MB are" in done.stderr
    assert set_up(ROOM_MB="", FREE_KB=str(8000 * 1024), INDEX_ANSWERS="1").returncode == 0


def test_a_package_that_was_torn_is_installed_again(set_up):
    packages = set_up.checkout / ".venv" / "lib" / "python3.11" / "site-packages"
    for name in ("torn-1.0.dist-info", "whole-1.0.dist-info"):
        (packages / name).mkdir(parents=True)
        (packages / name / "METADATA").touch()
    (packages / "whole-1.0.dist-info" / "INSTALLER").touch()
    assert set_up().returncode == 0
    assert [path.name for path in packages.iterdir()] == ["whole-1.0.dist-info"]


def test_a_second_set_up_waits_for_the_first(set_up):
    venv = set_up.checkout / ".venv"
    venv.mkdir()
    with (venv / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = set_up.start()
        assert second.stdout.readline() == f"another set-up is at work in {venv}; waiting for it\n"
        (venv / "bin").mkdir()
        (venv / "bin" / "activate").touch()
        (venv / "ready").touch()
    assert second.communicate(timeout=60) == ("set up\n", "")
    assert calls(set_up) == []


def test_pip_gets_a_temporary_folder_beside_the_environment(set_up):
    assert set_up(TMPDIR="").returncode == 0
    assert (set_up.stubs / "tmpdir").read_text() == f"{set_up.checkout}/.venv/tmp\n"
    assert not (set_up.checkout / ".venv" / "tmp").exists()


def test_a_disk_that_fills_up_meanwhile_is_said(set_up):
    done = set_up(FAILURE="ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device")
    assert "No space left on device" in done.stderr


def test_python_313_alone_is_said_with_what_to_do(set_up):
    done = set_up(TOO_NEW="1")
    assert done.returncode == 1 and done.stdout == ""
    assert "no Python 3.11 or 3.12 found" in done.stderr and "PYTHON=/path/to/python3.11" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_with_a_gpu_the_constraints_are_installed_and_nothing_is_built_without_nvcc(set_up):
    (set_up.stubs / "nvidia-smi").write_text("#!/bin/bash\n")
    done = set_up()
    assert (done.returncode, done.stderr) == (0, "")
    assert calls(set_up) == [ON_A_GPU]
    assert "flash-attn: left out; leafe-verl check says what that costs (it is compiled, and there is no" in done.stdout


@pytest.mark.parametrize(("version", "told"), [("12.8", True), ("13.0", False)])
def test_a_driver_that_is_too_old_is_told_before_anything_is_installed(set_up, version, told):
    (set_up.stubs / "nvidia-smi").write_text(f"#!/bin/bash\necho '| Driver Version: 570  CUDA Version: {version} |'\n")
    done = set_up()
    assert done.returncode == 0
    assert ("the driver here is for CUDA 12, and the torch that is installed needs 13" in done.stderr) is told


@pytest.mark.parametrize(("given", "said"), [({}, "flash-attn, which is compiled"), ({"UNBUILT": "1"}, "could not be")])
def test_flash_attn_is_built_where_nvcc_is_and_may_fail(set_up, given, said):
    (set_up.stubs / "nvcc").write_text("#!/bin/bash\n")
    done = set_up(SETUP_DEVICE="gpu", **given)
    assert (done.returncode, done.stderr) == (0, "")
    assert calls(set_up) == [
        ON_A_GPU,
        f"pip install {PINNED} setuptools wheel packaging ninja psutil",
        f"pip install --no-build-isolation {PINNED} flash-attn",
    ]
    assert said in done.stdout and (set_up.checkout / ".venv" / "ready").exists()


def test_another_python_than_was_named_is_not_taken(set_up):
    done = set_up(PYTHON="python3.12")
    assert (
        done.returncode == 1 and "PYTHON is python3.12, which is no Python 3.11 or 3.12 that runs here" in done.stderr
    )
    assert not (set_up.checkout / ".venv" / "bin").exists()


def test_a_device_that_is_none_is_refused(set_up):
    done = set_up(SETUP_DEVICE="cuda")
    assert done.returncode == 1 and done.stderr == "SETUP_DEVICE is cuda; expected cpu or gpu\n"


def test_the_python_of_an_active_venv_is_found_behind_its_link(set_up):
    linked = set_up.checkout / ".venv" / "bin" / "python3.11"
    linked.parent.mkdir(parents=True)
    linked.symlink_to(set_up.stubs / "python3.11")
    done = set_up(PATH=f"{linked.parent}:{set_up.stubs}:{os.environ['PATH']}")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_without_locks_is_set_up_all_the_same(set_up):
    (set_up.stubs / "flock").write_text("#!/bin/bash\nexit 71\n")
    (set_up.stubs / "flock").chmod(0o755)
    done = set_up()
    assert done.returncode == 0 and "another set-up" not in done.stdout


def test_flash_attn_can_be_left_out(set_up):
    (set_up.stubs / "nvcc").write_text("#!/bin/bash\n")
    done = set_up(SETUP_DEVICE="gpu", FLASH_ATTN="0")
    assert done.returncode == 0 and calls(set_up) == [ON_A_GPU]


def test_the_device_can_be_named(set_up):
    (set_up.stubs / "nvidia-smi").write_text("#!/bin/bash\n")
    assert set_up(SETUP_DEVICE="cpu").returncode == 0
    assert not any("constraints-gpu" in call for call in calls(set_up))


def test_an_environment_with_verl_and_vllm_gets_the_package_alone(set_up):
    done = set_up(HAS_VERL="0.9.1")
    assert (done.returncode, done.stderr) == (0, "")
    assert calls(set_up) == ["python -m pip install -q --no-deps -e ROOT"]
    assert "installing leafe-verl, and nothing else, beside verl and vLLM" in done.stdout
    assert not (set_up.checkout / ".venv").exists()
    set_up(HAS_VERL="0.9.1", NEW_SETUPTOOLS="1")
    assert calls(set_up)[-1] == "python -m pip install -q --no-deps --no-build-isolation -e ROOT", "needs no network"


def test_an_environment_of_uv_has_no_pip(set_up):
    (set_up.stubs / "uv").write_text('#!/bin/bash\necho "uv $*" >> "$STUBS/calls"\n')
    (set_up.stubs / "uv").chmod(0o755)
    assert set_up(HAS_VERL="0.9.1", NO_PIP="1").returncode == 0
    (call,) = calls(set_up)
    assert call == f"uv pip install -q --no-deps --python {set_up.stubs}/python -e ROOT"


def test_links_of_another_python_are_replaced(set_up):
    old = set_up.checkout / ".venv" / "bin" / "python3.13"
    old.parent.mkdir(parents=True)
    old.touch()
    assert set_up().returncode == 0 and not old.exists()


def test_an_environment_that_was_moved_is_said(set_up):
    assert set_up().returncode == 0
    done = set_up(GONE="1")
    assert done.returncode == 1 and "is not whole" in done.stderr and f"rm -r {set_up.checkout}/.venv" in done.stderr


def test_an_environment_for_the_cpu_is_not_taken_for_gpus(set_up):
    inactive = {"PATH": f"{set_up.stubs}:/usr/bin:/bin"}
    active = {"VIRTUAL_ENV": str(set_up.checkout / ".venv")}
    assert set_up(SETUP_DEVICE="cpu", **inactive).returncode == 0
    for given in (inactive, active):
        refused = set_up(SETUP_DEVICE="gpu", **given)
        assert (
            refused.returncode == 1 and "made for SETUP_DEVICE=cpu, and this run is for gpu; rm -r " in refused.stderr
        )
    (set_up.stubs / "nvidia-smi").write_text("#!/bin/bash\n")
    assert "this run is for gpu" in set_up(**inactive).stderr
    assert set_up(SETUP_DEVICE="cpu", **inactive).returncode == 0


def test_an_environment_of_an_earlier_set_up_is_used(set_up):
    assert set_up().returncode == 0
    (set_up.checkout / ".venv" / "ready").write_text("")
    (set_up.stubs / "nvidia-smi").write_text("#!/bin/bash\n")
    assert set_up().returncode == 0


@pytest.mark.parametrize("active", [False, True])
def test_an_environment_of_other_versions_is_told_and_used(set_up, active):
    venv = set_up.checkout / ".venv"
    inactive = {"PATH": f"{set_up.stubs}:/usr/bin:/bin"}
    given = {"VIRTUAL_ENV": str(venv), "PATH": f"{venv}/bin:{inactive['PATH']}"} if active else inactive
    assert set_up(**inactive).stderr == "" == set_up(**given).stderr
    (set_up.checkout / "pyproject.toml").write_text("[project]\n")
    before = calls(set_up)
    done = set_up(**given)
    assert (done.returncode, done.stdout) == (0, "set up\n") and f"rm {venv}/ready and the same command" in done.stderr
    assert calls(set_up) == before
    (venv / "ready").unlink()
    assert set_up(**inactive).stderr == "" and len(calls(set_up)) > len(before)


def test_what_an_image_lacks_is_told_before_anything_is_installed(set_up):
    done = set_up(NO_NUMA="1", FREE_MB="64")
    assert done.returncode == 0 and "apt-get install libnuma1" in done.stderr
    assert "/dev/shm has 64 MB free" in done.stderr and "--shm-size=2g" in done.stderr


@pytest.mark.parametrize("system", ["Darwin", "musl"])
def test_another_system_is_refused_before_anything_is_installed(set_up, system):
    name = "ldd" if system == "musl" else "uname"
    (set_up.stubs / name).write_text(f"#!/bin/bash\necho {system}\n")
    (set_up.stubs / name).chmod(0o755)
    done = set_up()
    assert done.returncode == 1 and "vLLM is built for Linux with glibc alone" in done.stderr and not calls(set_up)


def test_what_another_python_has_is_not_there_for_pip(set_up):
    assert set_up(PYTHONPATH="/opt/ros", PIP_USER="1").returncode == 0
    assert (set_up.stubs / "settings").read_text() == " 0\n"


def test_a_command_that_removes_a_folder_quotes_it(set_up):
    assert set_up().returncode == 0
    moved = set_up.checkout.rename(set_up.checkout.parent / "my project")
    done = subprocess.run(
        ["bash", "-c", ". recipes/setup.sh"],
        cwd=moved,
        env={**os.environ, "PATH": f"{set_up.stubs}:{os.environ['PATH']}", "STUBS": str(set_up.stubs), "GONE": "1"},
        capture_output=True,
        text=True,
    )
    assert "my\\ project/.venv and the same command" in done.stderr


def test_an_environment_with_another_verl_is_left_as_it_is(set_up):
    done = set_up(HAS_VERL="0.7.0")
    assert done.returncode == 1 and calls(set_up) == [] and done.stdout == ""
    assert "has verl 0.7.0, and leafe-verl takes verl>=0.9.1,<0.10; install that there, or deactivate" in done.stderr


def test_the_tests_say_which_tools_are_missing(set_up):
    (set_up.checkout / "tests").mkdir()
    shutil.copy(RECIPES.parent / "tests" / "run.sh", set_up.checkout / "tests")
    lacking = """#!/bin/bash
case "$*" in *" leafe-verl verl") ;; *) exit 1 ;; esac
"""
    (set_up.stubs / "python").write_text(lacking)
    environment = {**os.environ, "PATH": f"{set_up.stubs}:{os.environ['PATH']}"}
    command = ["bash", str(set_up.checkout / "tests" / "run.sh")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("lacks what the tests need; fix it with: pip install mypy pytest pytest-xdist ruff\n")


@pytest.mark.parametrize(
    ("given", "said"),
    [({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}, "this is a job of Ray"), ({}, "those of an installed leafe-verl")],
)
def test_nothing_is_set_up_in_a_job_or_from_a_wheel(set_up, given, said):
    if not given:
        (set_up.checkout / "pyproject.toml").unlink()
    done = set_up(**given)
    assert done.returncode == 1 and said in done.stderr and "lacks leafe-verl, verl or vLLM" in done.stderr
    assert calls(set_up) == [] and not (set_up.checkout / ".venv").exists()


def test_pinned_packages_take_every_python_that_is_promised():
    lowest = Version(re.search(r'requires-python = ">=([0-9.]+)', (RECIPES.parent / "pyproject.toml").read_text())[1])
    for line in (RECIPES / "constraints-cpu.txt").read_text().splitlines():
        with suppress(metadata.PackageNotFoundError):
            requirement = Requirement(line.partition("#")[0] or "none")
            takes = metadata.metadata(requirement.name).get("Requires-Python")
            assert lowest in SpecifierSet(takes or ""), f"{line} needs Python {takes}"


def test_constraints_hold_what_the_extras_pin():
    text = (RECIPES / "constraints-gpu.txt").read_text().lower().splitlines()
    pinned = {line.partition(" ;")[0] for line in text if not line.startswith("#")}
    assert {"verl==0.9.1", "vllm==0.24.0", "flash-attn==2.8.3", "rapidfuzz==3.14.6", "rank-bm25==0.2.2"} <= pinned
    assert all("==" in line for line in pinned)
