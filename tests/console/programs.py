"""Small programs that do what a run's launcher does, each in a process of its own."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

OPENED = """
import dataclasses, os, sys
from pathlib import Path
from leafe_verl.console.ending import RunChoices
from leafe_verl.console.run_console import RunConsole
overrides = ("environment=mbpp", "leafe.seed=1")
choices = RunChoices("leafe", "mbpp", overrides, steps=1, epochs=30, stop_at="fence")
console = RunConsole(Path(sys.argv[1]), choices)
console.open(["a heading"])
print("noise of Python"); os.system("echo noise of a child; echo an error of a child >&2")
"""


def run(code: str, run_dir: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the code after `OPENED`, with the run's folder, and without a terminal."""
    return subprocess.run(
        [sys.executable, "-c", OPENED + code, run_dir],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=run_dir,
        env=environment(**variables),
    )


def run_on_terminal(code: str, run_dir: Path) -> str:
    """Run the code in the same way on a pseudo-terminal, and return everything that was written to it."""
    mine, theirs = pty.openpty()
    command = [sys.executable, "-c", OPENED + code, run_dir]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=run_dir, env=environment(TERM="xterm")
    )
    os.close(theirs)
    written = b""
    with suppress(OSError):  # the other end is closed
        while part := os.read(mine, 4096):
            written += part
    os.close(mine)
    process.wait(120)
    return written.decode()


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("VERBOSE", "NO_COLOR", "FORCE_COLOR")}
    root = Path(__file__).parents[2]
    return {**kept, "PYTHONPATH": f"{root}:{root / 'tests'}", **variables}
