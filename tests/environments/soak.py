"""Soak test: plays environments of a kind at random, many at once, while their processes are killed at random.

    python tests/environments/soak.py [NAME...] --seconds 600 --environments 8

Each kind (of tests/contracts/scenarios.py, and a simulator of ours) is played in an interpreter of its own. Attempts
take random and hostile actions, are rolled back to random steps, repeat their actions, and are closed or forgotten.
Prints the results, and a line of JSON at the end. The exit code is 1 if a rollback gave other results, if more attempts
broke than processes were killed, if processes, descriptors or files were left, or if memory grew.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from contracts.scenarios import SCENARIOS, Scenario
from environments.simulators import Counting
from leafe_verl.core.environment import Environment, ReplayDivergence, Step
from leafe_verl.core.task import Task
from leafe_verl.environments import simulator
from leafe_verl.environments.code_environment import CodeEnvironment
from leafe_verl.environments.simulator_process import SimulatorLimits, SimulatorProgram
from leafe_verl.sandbox import CodeVerdict
from leafe_verl.sandbox import pool as sandbox
from leafe_verl.sandbox.protocol import KILLED
from sandbox.host import descendants, memory_bytes, open_descriptors, settled

SIMULATOR = "a simulator"
HOSTILE = ("", "\0", "no such action", "Action: " + "x" * 2000, "Action: \ud800")
WIDE = {"processes": 4, "start_seconds": 300, "call_seconds": 120, "wait_seconds": 300}
"""Options of environments that run in processes: fewer processes than environments, and time for a busy machine."""
HEAPS = {"scienceworld": 400}
"""Memory of a process that a JVM may fill before it collects garbage, MiB: a heap of 256, and the JVM itself."""
QUARTERS = 4
MIB = 2**20


def _new_simulator() -> Environment:
    limits = SimulatorLimits(start_seconds=120, wait_seconds=120)
    return Counting(simulator.shared_pool(SimulatorProgram("environments.simulators:Fragile"), limits, 2))


def _simulator() -> Scenario:
    return Scenario(_new_simulator, (Task("count", "Count.", "counting", {"start": 0}),), (("+", "-"),), ())


KINDS: dict[str, Callable[[], Scenario]] = {**SCENARIOS, SIMULATOR: _simulator}


@dataclass
class Report:
    """The results of a soak test."""

    name: str
    seconds: float
    attempts: int = 0
    """Played, rolled back and played on."""
    steps: int = 0
    rollbacks: int = 0
    broken: list[str] = field(default_factory=list)
    """Messages of the exceptions that ended attempts."""
    kills: int = 0
    wrong: list[str] = field(default_factory=list)
    """Rollbacks after which the same actions gave other results."""
    most_processes: int = 0
    processes_left: int = 0
    descriptors_left: int = 0
    files_left: list[str] = field(default_factory=list)
    host_mib: list[float] = field(default_factory=list)
    """Resident memory at the start and at the end of each quarter, MiB."""
    below_mib: list[float] = field(default_factory=list)
    """The same for the largest process that it started, MiB."""

    @property
    def growth_mib(self) -> float:
        """Growth of memory after the first quarter, in which caches fill, MiB."""
        below = max(self.below_mib[-1] - max(self.below_mib[1], HEAPS.get(self.name, 0)), 0)
        return max(self.host_mib[-1] - self.host_mib[1], below)

    def problems(self, growth_mib: float) -> list[str]:
        """Return in words what is wrong, if memory may grow by `growth_mib`."""
        found = [f"wrong after rollback: {each}" for each in self.wrong]
        if len(self.broken) > self.kills:
            found.append(f"{len(self.broken)} attempts broke, {self.kills} kills: {self.broken[:3]}")
        found += [] if self.attempts else ["no attempt came to its end"]
        found += [f"{self.processes_left} processes left"] if self.processes_left else []
        found += [f"{self.descriptors_left} descriptors left"] if self.descriptors_left else []
        found += [f"files left: {', '.join(self.files_left[:5])}"] if self.files_left else []
        return found + ([f"memory grew by {self.growth_mib:.1f} MiB"] if self.growth_mib > growth_mib else [])


class Soak:
    """What the threads share."""

    def __init__(self, name: str, report: Report, kill_seconds: float) -> None:
        self.scenario = KINDS[name]()
        self.new = self.scenario.new
        if isinstance(self.new, partial) and "processes" in self.new.keywords:
            self.new = partial(self.new, **WIDE)
        self.report, self.kill_seconds = report, kill_seconds
        self.lock = threading.Lock()
        self.others = descendants(os.getpid())
        """Processes that do not belong to the environments."""
        self.seen: set[int] = set()

    def play_until(self, deadline: float, seed: int) -> None:
        chance = random.Random(seed)
        while time.monotonic() < deadline:
            environment = self.new()
            try:
                self._attempt(environment, chance)
            except Exception as error:
                with self.lock:
                    self._note_broken(error)
            if chance.random() < 0.9:  # else forgotten
                environment.close()

    def kill_until(self, deadline: float, seed: int) -> None:
        chance = random.Random(seed)
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, chance.expovariate(1 / self.kill_seconds)))
            mine = sorted(descendants(os.getpid()) - self.others)
            self.seen.update(mine)
            self.report.most_processes = max(self.report.most_processes, len(mine))
            if mine and time.monotonic() < deadline:
                try:
                    os.kill(chance.choice(mine), signal.SIGKILL)
                except OSError:
                    continue
                self.report.kills += 1

    def _note_broken(self, error: Exception) -> None:
        what = f"{type(error).__name__}: {error}"[:200]
        (self.report.wrong if isinstance(error, ReplayDivergence) else self.report.broken).append(what)

    def _attempt(self, environment: Environment, chance: random.Random) -> None:
        task = chance.choice(self.scenario.tasks)
        endings = note_endings(environment)
        observation, _ = environment.reset(task, 0)
        snapshots, actions, steps = list[Any](), list[str](), list[Step]()
        for _ in range(chance.randint(1, min(environment.horizon, 12))):
            snapshots.append(environment.snapshot())
            actions.append(self._draw(chance, observation))
            steps.append(environment.step(actions[-1]))
            observation = steps[-1].observation
            if steps[-1].terminated or steps[-1].truncated:
                break
        place = chance.randrange(len(steps))
        environment.restore(snapshots[place])
        again = [environment.step(action) for action in actions[place:]]
        said = [step.observation for step in (*steps, *again)]
        with self.lock:
            self.report.attempts += 1
            self.report.steps += len(steps) + len(again)
            self.report.rollbacks += 1
            if again != steps[place:] and any(KILLED in text for text in (*said, *endings)):
                self.report.broken.append("a kill took a run of the agent's program, which is a verdict")
            elif again != steps[place:]:
                pairs = zip(steps[place:], again, strict=True)
                told = "; ".join(f"{a!r:.600}, then {b!r:.600}" for a, b in pairs if a != b)
                self.report.wrong.append(f"{task.key}, {actions!r:.300}, from step {place + 1}: {told}")

    def _draw(self, chance: random.Random, observation: str) -> str:
        if chance.random() < 0.1:
            return chance.choice(HOSTILE)
        if self.scenario.random_action is not None:
            return self.scenario.random_action(chance, observation)
        return chance.choice([action for play in self.scenario.plays for action in play])


def note_endings(environment: Environment) -> list[str]:
    """Return a list to which each judged test adds how it ended: no observation says so of hidden ones."""
    endings: list[str] = []
    if isinstance(environment, CodeEnvironment):
        judge = environment.judge

        def judge_and_note(code: str, task: Task) -> CodeVerdict:
            verdict = judge(code, task)
            endings.extend(test.error or "" for test in verdict.tests)
            return verdict

        environment.judge = judge_and_note  # type: ignore[method-assign]
    return endings


def soak(name: str, seconds: float, environments: int, kill_seconds: float) -> Report:
    """Play for `seconds` and check what is left. It closes the shared pools, so it needs its own interpreter."""
    report = Report(name, seconds)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        descriptors = open_descriptors()
        load = Soak(name, report, kill_seconds)
        _note_memory(load)
        for quarter in range(QUARTERS):
            _run_threads(load, environments, seconds / QUARTERS, seed=1000 * quarter)
            gc.collect()
            _note_memory(load)
        simulator._pools.close_all()
        sandbox._pools.close_all()
        report.processes_left = settled(lambda: len(descendants(os.getpid()) - load.others))
        report.descriptors_left = settled(lambda: open_descriptors() - descriptors)
        report.files_left = [str(each) for each in Path(folder).rglob("*")]
    report.files_left += [str(each) for each in Path("/tmp").glob("hsperfdata_*/*") if int(each.name) in load.seen]
    return report


def _run_threads(load: Soak, environments: int, seconds: float, seed: int) -> None:
    deadline = time.monotonic() + seconds
    with ThreadPoolExecutor(environments + 1) as executor:
        killer = executor.submit(load.kill_until, deadline, seed)
        players = [executor.submit(load.play_until, deadline, seed + 1 + each) for each in range(environments)]
        for thread in (killer, *players):
            thread.result()


def _note_memory(load: Soak) -> None:
    load.report.host_mib.append(round(memory_bytes(os.getpid()) / MIB, 1))
    below = [memory_bytes(pid) for pid in descendants(os.getpid()) - load.others]
    load.report.below_mib.append(round(max(below, default=0) / MIB, 1))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(KINDS)}; all by default")
    parser.add_argument("--seconds", type=float, default=600, help="for each kind")
    parser.add_argument("--environments", type=int, default=8, help="at once")
    parser.add_argument("--kill-seconds", type=float, default=3, help="between two kills, on average")
    parser.add_argument("--growth-mib", type=float, default=32, help="by how much memory may grow (default: 32)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        report = soak(options.names[0], options.seconds, options.environments, options.kill_seconds)
        print(json.dumps({**asdict(report), "problems": report.problems(options.growth_mib)}))
        return 0
    results = {name: _in_fresh_interpreter(name, options) for name in options.names or KINDS}
    for name, found in results.items():
        print(f"{name}: {_told(found)}")
    print(json.dumps(results))
    return int(any(found.get("problems") for found in results.values()))


def _in_fresh_interpreter(name: str, options: argparse.Namespace) -> dict[str, Any]:
    numbers = {"--seconds": options.seconds, "--environments": options.environments}
    numbers |= {"--kill-seconds": options.kill_seconds, "--growth-mib": options.growth_mib}
    given = [each for pair in numbers.items() for each in map(str, pair)]
    done = subprocess.run([sys.executable, __file__, name, "--here", *given], capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        return {"missing": last} if "Skipped" in last else {"problems": [last]}
    return dict(json.loads(done.stdout.strip().rpartition("\n")[2]))


def _told(found: dict[str, Any]) -> str:
    if "attempts" not in found:
        return str(found)
    played = f"{found['attempts']} attempts, {found['steps']} steps and {found['rollbacks']} rollbacks"
    memory = f"host {found['host_mib']}, largest process {found['below_mib']}"
    ended = f"{found['kills']} kills broke {len(found['broken'])}"
    problems = "; ".join(found["problems"]) or "no problem"
    return f"{played} in {found['seconds']:g} s; {ended}; memory, MiB: {memory}; {problems}"


if __name__ == "__main__":
    sys.exit(main())
