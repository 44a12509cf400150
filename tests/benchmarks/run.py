"""Every benchmark of speed, one after the other, then one table: each ratio with its alternative, runs and spread.

    bash tests/benchmarks/run.sh [NAME...]

A benchmark is a script that prints, last, a line of JSON; the table is made of its `ratios` (see `ratio` in runs.py).
What it printed itself stands above the table. More than an hour on two cores with AVX2 alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCRIPTS = {
    "exploring": ("--runs", "2"),
    "training": (),
    "step": ("--steps", "3", "--warm-up", "1", "--tasks", "4"),
    "sampling": (),
    "scaling": ("--replicas",),
    "start": ("--runs", "2"),
    "sandbox": (),
    "prefixes": (),
    "tree_store": ("--sizes", "1000", "10000"),
}
"""Benchmark -> its arguments. Benchmarks whose file is missing are skipped."""
COLUMNS = ("what", "alternative", "ratio", "spread", "runs", "goal")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SCRIPTS)}; all of them by default")
    names = parser.parse_args(arguments).names or [name for name in SCRIPTS if (HERE / f"{name}.py").is_file()]
    begun = os.getloadavg()[1]
    results = {name: run(name) for name in names}
    print(f"\n| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for name, result in results.items():
        for line in lines(name, result):
            print(f"| {' | '.join(line)} |")
    cores = f"{len(os.sched_getaffinity(0))} cores ({platform.machine()})"
    print(f"\n{time.strftime('%F')}, {cores}; load average before and after: {begun:.1f} and {os.getloadavg()[1]:.1f}.")
    print(json.dumps(results))


def run(name: str) -> Mapping[str, Any] | None:
    """Run a benchmark, show what it prints, and return its line of JSON; None for one that failed."""
    print(f"\n## {name}\n", flush=True)
    command = [sys.executable, str(HERE / f"{name}.py"), *SCRIPTS.get(name, ())]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(last, end="", flush=True)
            last = line
    return dict(json.loads(last)) if process.returncode == 0 else None


def lines(name: str, result: Mapping[str, Any] | None) -> Iterator[list[str]]:
    if result is None:
        yield [f"{name}: failed, see above", *[""] * (len(COLUMNS) - 1)]
        return
    for each in result.get("ratios", ()):
        low, high = each["spread"]
        runs, goal = str(each.get("runs", "")), each.get("goal", "")
        yield [each["what"], each["alternative"], f"{each['ratio']:.2f}", f"{low:.2f} to {high:.2f}", runs, goal]


if __name__ == "__main__":
    main()
