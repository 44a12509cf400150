"""A short form of soak.py, which runs for as long as one likes, and on every kind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).with_name("soak.py")
SECONDS = 1


@pytest.mark.parametrize("name", ["sokoban", "codecontests", "a simulator"])
def test_nothing_is_left_after_random_play_and_kills(name: str) -> None:
    """In this process, in the sandbox, and in processes of their own."""
    given = ["--seconds", str(SECONDS), "--kill-seconds", "0.3", "--growth-mib", "64"]
    done = subprocess.run([sys.executable, SOAK, name, *given], capture_output=True, text=True, timeout=300)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])[name]
    assert (done.returncode, report["problems"]) == (0, [])
    assert report["attempts"] > 0
