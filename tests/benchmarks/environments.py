"""What each environment costs: its start, a step, a rollback, and memory.

    python tests/benchmarks/environments.py [NAME...] --steps 20 --repeats 5 --into README.md

Every environment is measured in an interpreter of its own, with the tasks and random actions of its contract scenario
(tests/contracts/scenarios.py), in rounds, so that other work on the machine hits all figures of it. Medians.

start       the first reset, all that is started for it included
reset       each later one, over the scenario's tasks
step        one action
restore     back to the state after `steps` actions (fewer where an attempt is over before), in another instance
memory      proportional set size beyond a bare interpreter with this package, processes that it started included

Prints a table and, last, a line of JSON; `--into` puts the table, with the load of the machine, between the two marks
of a file. An environment whose packages are missing is named with the reason.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from contracts.scenarios import SCENARIOS, Scenario
from leafe_verl.core.environment import Environment
from leafe_verl.environments import names

COLUMNS = ("start, s", "reset, ms", "step, ms", "restore, ms", "steps restored", "replayed", "memory, MiB")

MARKS = ("<!-- tests/benchmarks/environments.py: begin -->", "<!-- tests/benchmarks/environments.py: end -->")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="registered environments; all of them by default")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--into", help="a Markdown file with the marks")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measure(SCENARIOS[options.names[0]](), options.steps, options.repeats)))
        return
    load = [os.getloadavg()[1]]
    results = {name: _in_fresh_interpreter(name, options) for name in options.names or names()}
    load.append(os.getloadavg()[1])
    lines = table(results)
    if options.into:
        path = Path(options.into)
        path.write_text(between_marks(path.read_text(encoding="utf-8"), [*lines, "", _conditions(load)]), "utf-8")
    print("\n".join(lines))
    print(json.dumps(results))


def table(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [f"| environment | {' | '.join(COLUMNS)} |", f"|{' --- |' * (len(COLUMNS) + 1)}"]
    for name, figures in results.items():
        missing = [figures["missing"].replace("|", "/"), *[""] * (len(COLUMNS) - 1)] if "missing" in figures else None
        lines.append(f"| {' | '.join([f'`{name}`', *(missing or map(shown, figures.values()))])} |")
    return lines


def shown(figure: float) -> str:
    """Two decimals at most: below is noise of the clock, and of the memory's shared pages."""
    if figure >= 100:
        return f"{figure:.0f}"
    return f"{figure:.3g}" if figure >= 0.01 else "0" if figure <= 0 else "< 0.01"


def between_marks(text: str, lines: Sequence[str]) -> str:
    """Return a text with these lines between MARKS. Raises ValueError for one without the marks."""
    before, begin, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (begin and end):
        raise ValueError(f"the file lacks the lines {MARKS[0]} and {MARKS[1]}, between which the table goes")
    return "\n".join([before + begin, *lines, end + after])


def _conditions(load: Sequence[float]) -> str:
    date, cores = datetime.date.today().isoformat(), len(os.sched_getaffinity(0))
    waiting = " and ".join(f"{each:.1f}" for each in load)
    return f"Medians on {cores} cores on {date}; load average before and after: {waiting}."


def _in_fresh_interpreter(name: str, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, name, "--measure", "--steps", str(options.steps)]
    done = subprocess.run([*command, "--repeats", str(options.repeats)], capture_output=True, text=True)
    if done.returncode:
        return {"missing": done.stderr.strip().rpartition("\n")[2]}
    return dict(json.loads(done.stdout.strip().rpartition("\n")[2]))


def measure(scenario: Scenario, steps: int, repeats: int) -> dict[str, float]:
    """Return the figures of COLUMNS."""
    bare = memory()
    chance = random.Random(0)
    first, second = scenario.new(), scenario.new()
    first.horizon = second.horizon = steps + 1
    start, _ = timed(first.reset, scenario.tasks[0], 0)
    times: dict[str, list[float]] = {"reset": [], "step": [], "restore": []}
    counts: dict[str, list[int]] = {"steps": [], "replayed": []}
    for index in range(repeats):
        seconds, (observation, _) = timed(first.reset, scenario.tasks[index % len(scenario.tasks)], 0)
        times["reset"].append(seconds)
        taken = list(_steps(scenario, first, chance, observation, steps))
        times["step"] += taken
        seconds, replayed = timed(second.restore, first.snapshot())
        times["restore"].append(seconds)
        counts["steps"].append(len(taken))
        counts["replayed"].append(replayed)
    used = memory() - bare
    first.close()
    second.close()
    reset, step, restore = (1000 * statistics.median(times[each]) for each in ("reset", "step", "restore"))
    medians = (statistics.median(each) for each in counts.values())
    return dict(zip(COLUMNS, (start, reset, step, restore, *medians, used), strict=True))


def _steps(
    scenario: Scenario, environment: Environment, chance: random.Random, observation: str, steps: int
) -> Iterator[float]:
    """Play random actions; yields the seconds of each step."""
    plays = [action for play in scenario.plays for action in play]
    for _ in range(steps):
        action = scenario.random_action(chance, observation) if scenario.random_action else chance.choice(plays)
        seconds, step = timed(environment.step, action)
        yield seconds
        if step.terminated or step.truncated:
            return
        observation = step.observation


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Return (seconds, result)."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def memory() -> float:
    """Return MiB of this process and of all that descend from it."""
    parents = {pid: _parent(pid) for pid in (int(each.name) for each in Path("/proc").glob("[0-9]*"))}
    mine = {int(Path("/proc/self").resolve().name)}
    while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return sum(map(_proportional_kib, mine)) / 1024


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


def _proportional_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


if __name__ == "__main__":
    main()
