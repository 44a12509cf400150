"""Runs the cells of a comparison and keeps one line for each that is finished, in RUN_DIR/cells.jsonl."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leafe_verl.evaluation.cells import Figures, read_cells
from leafe_verl.files import replace_text
from leafe_verl.processes import end_with_parent, leaving_ctrl_c_to_the_child

FILE = "cells.jsonl"
PLAN = "plan.json"
"""In the RUN_DIR of a comparison: what all its cells share."""


class Shell:
    """Runs the commands of one cell, and remembers them."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.commands: list[str] = []
        self._variables = variables
        """Environment variables of all commands."""

    def run(self, command: Sequence[str], **variables: str) -> None:
        """Run a command with further environment variables. Raises ValueError if it fails."""
        told = " ".join([*(f"{name}={shlex.quote(value)}" for name, value in variables.items()), shlex.join(command)])
        self.commands.append(told)
        print(f"\n{told}\n", flush=True)
        environment = {**os.environ, **self._variables, **variables}
        with leaving_ctrl_c_to_the_child():
            status = subprocess.run(command, env=environment, preexec_fn=end_with_parent).returncode
        if status:
            raise ValueError(f"the command above ended with status {status}; starting the comparison again goes on")


class Ledger:
    """The finished cells. A cell that is in it is not run again."""

    def __init__(self, run_dir: Path) -> None:
        """Read the cells. Raises ValueError if LEAFE_CPU_DTYPE asks for another precision than theirs."""
        self._path = run_dir / FILE
        self.cells: dict[str, Figures] = read_cells(self._path) if self._path.is_file() else {}
        asked, present = os.environ.get("LEAFE_CPU_DTYPE"), self.dtype
        if asked and present and asked != present:
            raise ValueError(
                f"the cells in {self._path} were computed in {present}, and LEAFE_CPU_DTYPE is {asked}; expected "
                f"LEAFE_CPU_DTYPE={present}, or another RUN_DIR"
            )

    @property
    def dtype(self) -> str | None:
        """The precision that the cells were computed in; None if there are none yet."""
        return next((line["dtype"] for line in self.cells.values() if line.get("dtype")), None)

    def finish(self, cell: str, work: Callable[[Shell], Figures]) -> Figures:
        """Return a cell's figures, which `work` gives if the cell is not finished yet.

        Whatever machine goes on, it computes in the precision of the first cell.
        """
        if cell in self.cells:
            return self.cells[cell]
        dtype = self.dtype
        shell = Shell({"LEAFE_CPU_DTYPE": dtype} if dtype in ("float32", "bfloat16") else {})
        print(f"== {cell}", flush=True)
        began = time.time()
        figures = work(shell)
        self._refuse_mixed_precision(cell, figures)
        origin = {"cell": cell, "commands": shell.commands, "commit": read_commit(), "machine": describe_machine()}
        self.cells[cell] = {**origin, "seconds": round(time.time() - began), **figures}
        self._write()
        return self.cells[cell]

    def _write(self) -> None:
        """Replace the file, so that a killed process leaves no half of a line."""
        replace_text(self._path, "".join(json.dumps(line) + "\n" for line in self.cells.values()))

    def _refuse_mixed_precision(self, cell: str, figures: Figures) -> None:
        if self.dtype and figures.get("dtype") not in (None, self.dtype):
            raise ValueError(
                f"{cell} was computed in {figures['dtype']}, and the cells before in {self.dtype}; expected one "
                f"precision for all: remove what {cell} left in RUN_DIR, and compute it in {self.dtype}"
            )


def keep_plan(run_dir: Path, decisive: Mapping[str, Any]) -> None:
    """Write what all cells share. Raises ValueError if the comparison in `run_dir` began with other choices."""
    path = run_dir / PLAN
    if not path.is_file():
        replace_text(path, json.dumps(decisive, indent=2) + "\n")
    kept = json.loads(path.read_text(encoding="utf-8"))
    for name, value in decisive.items():
        if kept.get(name) != value:
            raise ValueError(
                f"{name} is {value!r}, and the comparison in {run_dir} began with {kept.get(name)!r} ({path}); "
                "expected the same, or another RUN_DIR"
            )


def read_commit(checkout: Path = Path(__file__).parents[2]) -> str | None:
    """Return the commit of the checkout, with `+` if files differ from it; None outside a checkout."""
    said = [_output("git", "-C", str(checkout), *what) for what in (("rev-parse", "HEAD"), ("status", "--porcelain"))]
    return None if not said[0] else said[0] + ("+" if said[1] else "")


def describe_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> Figures:
    """Return the processor's name and the number of cores that may be used."""
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return {"cpu": named[1] if named else platform.machine(), "cores": len(os.sched_getaffinity(0))}


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""
