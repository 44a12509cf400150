"""The set-up of the recipes, with stand-ins for Python and pip: what it prints, and what it says when it fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[1] / "recipes"

PYTHON = """#!/bin/bash
case "$*" in
    --version) echo Python 3.11.9 ;;
    "-m venv "*) mkdir -p "$3/bin"; cp "$STUBS/pip" "$3/bin"; echo "PATH=$3/bin:\\$PATH" > "$3/bin/activate" ;;
    "-c import sys;"*) [ -z "${TOO_NEW:-}" ] ;;
    -) echo a-requirement ;;
    *) exit 1 ;;
esac
"""
PIP = """#!/bin/bash
echo "Collecting $*"
printf '\\033[31mERROR: pip'"'"'s dependency resolver does not take this into account.\\033[0m\\n' >&2
case "$*" in *verl*) [ -z "${FAILURE:-}" ] || { echo "$FAILURE" >&2; exit 1; } ;; esac
"""


@pytest.fixture
def set_up(tmp_path):
    """Return a function that runs the set-up of a checkout with the given variables."""
    stubs, checkout = tmp_path / "stubs", tmp_path / "checkout"
    stubs.mkdir()
    shutil.copytree(RECIPES, checkout / "recipes")
    for name, text in {"pip": PIP, **dict.fromkeys(["python", "python3", "python3.11"], PYTHON)}.items():
        (stubs / name).write_text(text)
    for name in ("python3.10", "python3.12", "nvidia-smi"):
        (stubs / name).write_text("#!/bin/bash\nexit 1\n")
    for path in stubs.iterdir():
        path.chmod(0o755)
    path = {"PATH": f"{stubs}:{os.environ['PATH']}", "STUBS": str(stubs)}

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "ROOM_MB")}
        command = ["bash", "-c", ". recipes/setup.sh; echo set up"]
        environment = {**kept, "ROOM_MB": "0", **path, **variables}
        return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=60)

    run.checkout = checkout  # type: ignore[attr-defined]
    return run


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


def test_a_disk_that_fills_up_meanwhile_is_said(set_up):
    done = set_up(FAILURE="ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device")
    assert "No space left on device" in done.stderr


def test_python_313_alone_is_said_with_what_to_do(set_up):
    done = set_up(TOO_NEW="1")
    assert done.returncode == 1 and done.stdout == ""
    assert "no Python 3.10 to 3.12 found" in done.stderr and "PYTHON=/path/to/python3.11" in done.stderr
    assert len(done.stderr.splitlines()) == 1
