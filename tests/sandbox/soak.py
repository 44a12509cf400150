"""Good, wrong, hostile and slow programs all at once through one pool: python tests/sandbox/soak.py --seconds 60

Prints the results, and a line of JSON at the end. The exit code is 1 if a verdict was wrong, if processes, descriptors
or files were left, or if memory grew.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

# Also run as a script, from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from leafe_verl.sandbox.judge import judge
from leafe_verl.sandbox.pool import SandboxPool
from leafe_verl.sandbox.programs import ProgramTest, judge_program
from leafe_verl.sandbox.protocol import Limits, SandboxLost
from sandbox.forgeries import FORGERIES, Secret
from sandbox.host import Host, descendants, memory_bytes, open_descriptors, settled, use_every_worker
from sandbox.hostile import HOSTILE, NEEDS_SECCOMP

LIMITS = Limits(cpu_seconds=1, wall_seconds=2.5, memory_bytes=256 * 2**20)
HONEST = Limits(cpu_seconds=5, wall_seconds=20)
"""Limits of right programs; generous, so that none of them fails on a busy machine."""
QUARTERS = 4
SHARES = {"good": 40, "good program": 20, "wrong": 15, "forged": 10, "slow": 10, "hostile": 5}
"""How often each kind is drawn."""


@dataclass
class Report:
    """The results of a soak test."""

    seconds: float
    runs: dict[str, int] = field(default_factory=dict)
    """Programs judged, by kind."""
    false_verdicts: list[str] = field(default_factory=list)
    unscored: int = 0
    harms: dict[str, list[str]] = field(default_factory=dict)
    """What was done to the host, including files and processes that were left, by the name of the hostile program."""
    processes_left: int = 0
    descriptors_left: int = 0
    judge_mib: list[float] = field(default_factory=list)
    """Resident memory at the start and at the end of each quarter, MiB."""
    sandbox_mib: list[float] = field(default_factory=list)
    """The same for the largest idle process of the sandbox, MiB."""

    @property
    def growth_mib(self) -> float:
        """Growth of memory after the first quarter, in which caches fill, MiB."""
        return max(self.judge_mib[-1] - self.judge_mib[1], self.sandbox_mib[-1] - self.sandbox_mib[1])

    def problems(self, growth_mib: float) -> list[str]:
        """Return in words what is wrong, if memory may grow by `growth_mib`."""
        left = {"processes": self.processes_left, "descriptors": self.descriptors_left}
        found = [f"false verdict: {verdict}" for verdict in self.false_verdicts]
        found += [f"{self.unscored} programs went unscored"] if self.unscored else []
        found += [f"{name}: {', '.join(harms)}" for name, harms in self.harms.items() if harms]
        found += [f"{number} {what} left" for what, number in left.items() if number]
        return found + ([f"memory grew by {self.growth_mib:.1f} MiB"] if self.growth_mib > growth_mib else [])


class Soak:
    """What the threads share. Each kind of program is a method that returns what is wrong with its verdict, or None."""

    def __init__(self, pool: SandboxPool, host: Host, seed: int) -> None:
        self.pool = pool
        self.random = random.Random(seed)
        self.lock = threading.Lock()
        self.runs: Counter[str] = Counter()
        self.false_verdicts: list[str] = []
        self.unscored = 0
        held_by = pool.call("", "", ["1"]).result().confinement
        hostile = [each for each in HOSTILE if "seccomp" in held_by or each.name not in NEEDS_SECCOMP]
        self.hostile = [host.prelude(each.name) + each.code for each in hostile]

    def judge_until(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            with self.lock:
                (kind,) = self.random.choices(list(SHARES), list(SHARES.values()))
                number = self.random.randrange(10**6)
            try:
                problem = KINDS[kind](self, number)
            except SandboxLost:
                with self.lock:
                    self.unscored += 1
                continue
            with self.lock:
                self.runs[kind] += 1
                if problem is not None:
                    self.false_verdicts.append(f"{kind} {number}: {problem}")

    def good(self, number: int) -> str | None:
        verdict = judge(f"def f(x): return x + {number}", [f"assert f(1) == {number + 1}"], "", self.pool, HONEST)
        return None if verdict.all_passed else str(verdict)

    def good_program(self, number: int) -> str | None:
        tests = [ProgramTest(f"{x}\n", f"{x + number}\n") for x in range(3)]
        verdict = judge_program(f"print(int(input()) + {number})", tests, self.pool, HONEST)
        return None if verdict.all_passed else str(verdict)

    def wrong(self, number: int) -> str | None:
        verdict = judge("def f(x): return x", [f"assert f({number}) == {number + 1}"], "", self.pool, HONEST)
        return str(verdict) if verdict.passed or verdict.failure else None

    def slow(self, number: int) -> str | None:
        code = "import time\ndef f(x):\n    time.sleep(0.2)\n    return x"
        verdict = judge(code, [f"assert f({number}) == {number}"], "", self.pool, HONEST)
        return None if verdict.all_passed else str(verdict)

    def forged(self, number: int) -> str | None:
        forgery = FORGERIES[number % len(FORGERIES)]
        verdict = judge(forgery.code, [secret.source for secret in Secret.draw()], "", self.pool, LIMITS)
        return f"{forgery.name}: {verdict}" if verdict.passed else None

    def hostile_program(self, number: int) -> str | None:
        code = self.hostile[number % len(self.hostile)]
        verdict = judge(code, [f"assert answer(0) == {number}"], "", self.pool, LIMITS)
        return str(verdict) if verdict.passed else None


KINDS: dict[str, Callable[[Soak, int], str | None]] = {
    "good": Soak.good,
    "good program": Soak.good_program,
    "wrong": Soak.wrong,
    "forged": Soak.forged,
    "slow": Soak.slow,
    "hostile": Soak.hostile_program,
}


def soak(
    seconds: float, tier: int | None = None, workers: int | None = None, threads: int = 8, seed: int = 0
) -> Report:
    """Judge programs from `threads` threads for `seconds`, and look what is left. The rest is as in SandboxPool."""
    report = Report(seconds)
    others, descriptors = descendants(os.getpid()), open_descriptors()
    with Host() as host, SandboxPool(workers, tier) as pool:
        load = Soak(pool, host, seed)
        use_every_worker(pool)
        idle = len(descendants(os.getpid()))
        _note_memory(report, others)
        for _ in range(QUARTERS):
            _run_threads(load, threads, seconds / QUARTERS)
            report.processes_left = max(report.processes_left, settled(lambda: len(descendants(os.getpid())) - idle))
            _note_memory(report, others)
        report.harms = {name: harms for name, harms in host.harms().items() if harms}
        report.runs, report.false_verdicts, report.unscored = dict(load.runs), load.false_verdicts, load.unscored
    report.processes_left += len(descendants(os.getpid()) - others)
    report.descriptors_left = settled(lambda: open_descriptors() - descriptors)
    return report


def _run_threads(load: Soak, threads: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    with ThreadPoolExecutor(threads) as executor:
        for thread in [executor.submit(load.judge_until, deadline) for _ in range(threads)]:
            thread.result()


def _note_memory(report: Report, others: set[int]) -> None:
    """While no program runs: what is left of this process's descendants waits for work."""
    report.judge_mib.append(round(memory_bytes(os.getpid()) / 2**20, 1))
    sandboxes = [memory_bytes(pid) for pid in descendants(os.getpid()) - others]
    report.sandbox_mib.append(round(max(sandboxes, default=0) / 2**20, 1))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tier", type=int, help="by default the firmest that works here")
    parser.add_argument("--workers", type=int, help="by default one for each processor")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--growth-mib", type=float, default=8, help="by how much memory may grow (default: 8)")
    arguments = parser.parse_args()
    report = soak(arguments.seconds, arguments.tier, arguments.workers, arguments.threads, arguments.seed)
    problems = report.problems(arguments.growth_mib)
    total = sum(report.runs.values())
    print(f"{total} programs in {report.seconds:.0f} s, {total / report.seconds:.0f} a second: {report.runs}")
    print(f"memory, MiB: judge {report.judge_mib}, largest sandbox process {report.sandbox_mib}")
    print("\n".join(problems) if problems else "no problem")
    print(json.dumps({**asdict(report), "problems": problems}))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
