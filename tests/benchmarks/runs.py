"""What the benchmarks of whole runs share: recipes are run, watched through vLLM's own counters, and ended."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import psutil

ROOT = Path(__file__).parents[2]
COUNTER = re.compile(r"^vllm:(\w+)_total\{.*\} ([\d.e+-]+)$", re.MULTILINE)
LIMIT_SECONDS = 1800


class Run(NamedTuple):
    """A running recipe."""

    process: psutil.Process
    folder: Path
    """RUN_DIR; log.txt holds what the recipe prints."""
    begun: float
    """time.monotonic() before the command."""


@contextmanager
def started(recipe: str, *overrides: str, **variables: str) -> Iterator[Run]:
    """Run `bash recipes/RECIPE.sh OVERRIDE...`; whatever is left of it at the end is killed, its folder removed."""
    with tempfile.TemporaryDirectory(prefix="leafe-verl-benchmark-", ignore_cleanup_errors=True) as folder:
        # Ray's own 15 for workers would let any other work on the machine go first.
        environment = {**os.environ, "RAY_worker_niceness": "0", "RUN_DIR": folder, "VERBOSE": "1", **variables}
        command = ["bash", str(ROOT / "recipes" / f"{recipe}.sh"), *overrides]
        with open(f"{folder}/log.txt", "wb") as log:
            begun = time.monotonic()
            child = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        process = psutil.Process(child.pid)
        try:
            yield Run(process, Path(folder), begun)
        finally:
            kill(process)
            child.wait()


def kill(process: psutil.Process) -> None:
    """Kill a process and those that it has started; one that has ended took them with it."""
    with suppress(psutil.NoSuchProcess):
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                each.kill()


def metrics_of(recipe: str, *overrides: str, **variables: str) -> list[dict[str, float]]:
    """Return the metrics of a recipe's training steps, once it has ended. Raises RuntimeError when it failed."""
    with started(recipe, *overrides, **variables) as run:
        if status := run.process.wait(LIMIT_SECONDS):
            raise RuntimeError(f"{recipe} ended with status {status}:\n{log_of(run)}")
        (file,) = run.folder.glob("metrics-*.jsonl")
        records = [json.loads(line) for line in file.read_text().splitlines()]
    return [record["data"] for record in records if "timing_s/step" in record["data"]]


def log_of(run: Run) -> str:
    return (run.folder / "log.txt").read_text(errors="replace")[-6000:]


def counters(process: psutil.Process) -> Counter[str]:
    """Return the sums of vLLM's own counters over the servers of a run, without `vllm:` and `_total`.

    Needs `rollout.disable_log_stats=false`. Empty while no server answers.
    """
    found: Counter[str] = Counter()
    for each in process.children(recursive=True):
        with suppress(psutil.Error):
            if " ".join(each.cmdline()).startswith("ray::vLLMHttpServer"):
                for address in [it.laddr for it in each.net_connections("tcp") if it.status == psutil.CONN_LISTEN]:
                    found.update(counters_at(f"http://{address.ip}:{address.port}/metrics"))
    return found


def counters_at(url: str) -> dict[str, float]:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return {name: float(value) for name, value in COUNTER.findall(answer.read().decode())}
    except (OSError, ValueError, HTTPException):  # another port of the process, or not up yet
        return {}


def median_and_spread(values: Sequence[float]) -> str:
    """Return the median, minimum and maximum, for example `12.3 (11.9 to 12.5)`."""
    middle = f"{statistics.median(values):.3g}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3g} to {max(values):.3g})"


def ratio(
    what: str, alternative: str, ours: Sequence[float], theirs: Sequence[float], goal: str = ""
) -> dict[str, Any]:
    """Return a line of run.py's table: the ratio of the medians, and how far single runs could put it."""
    middle = statistics.median(ours) / statistics.median(theirs)
    spread = [min(ours) / max(theirs), max(ours) / min(theirs)]
    runs = min(len(ours), len(theirs))
    return {"what": what, "alternative": alternative, "ratio": middle, "spread": spread, "runs": runs, "goal": goal}


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], results: Mapping[str, Any]) -> None:
    """Print a Markdown table and, last, a line of JSON."""
    for row in [columns, ["---"] * len(columns), *rows]:
        print(f"| {' | '.join(map(str, row))} |")
    machine = {"processors": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0], "date": time.strftime("%F")}
    print(json.dumps({**machine, **results}))
