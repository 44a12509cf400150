"""How many verdicts a second, and how long one takes: this sandbox, a fresh interpreter for each, verl's prime_code.

    python tests/benchmarks/sandbox.py --seconds 30

All contestants judge the same problem of MBPP, three calls, from two threads of one process, one contestant after the
other in short rounds, so that other work on the machine hits all of them. Each gives a verdict in its own way:

tier N            `judge` on a SandboxPool of that tier: an expected value never enters the process that runs the code.
python -I         subprocess.run of an interpreter with code and asserts as one program; its exit code is the verdict.
prime_code        compute_score of verl: a manager process and a forked one for each verdict, comparison in the latter.

prime_code is loaded by its file, without the rest of verl: this process stays small, which makes its forks as cheap as
they can be. A trainer's process is large, which a zygote does not notice. Prints a table and, last, a line of JSON.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from leafe_verl.sandbox import SandboxPool, available_tiers, judge

CONCURRENCY = 2
CODE = """
def find_Rotations(s):
    tmp = s + s
    n = len(s)
    for i in range(1, n + 1):
        if s == tmp[i : i + n]:
            return i
    return n
"""
CALLS = (("aaaa", 1), ("ab", 2), ("abc", 3))
ASSERTS = [f"assert find_Rotations({argument!r}) == {expected!r}" for argument, expected in CALLS]
Contestant = Callable[[], bool]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="of measuring, all contestants together")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        contestants = _contestants(stack)
        for score in contestants.values():
            if not score():
                raise RuntimeError("a contestant refuses the right solution")
        share = options.seconds / options.rounds / len(contestants)
        rounds = [{name: _measure(score, share) for name, score in contestants.items()} for _ in range(options.rounds)]
    _report({name: [each[name] for each in rounds] for name in contestants})


def _contestants(stack: ExitStack) -> dict[str, Contestant]:
    found: dict[str, Contestant] = {}
    for tier in available_tiers():
        pool = stack.enter_context(SandboxPool(workers=CONCURRENCY, tier=tier.number))
        found[f"tier {tier.number}"] = functools.partial(_in_pool, pool)
    found["python -I"] = _by_fresh_interpreter
    prime_code = _prime_code()
    if prime_code is not None:
        found["prime_code"] = prime_code
    return found


def _in_pool(pool: SandboxPool) -> bool:
    return judge(CODE, ASSERTS, "", pool).all_passed


def _by_fresh_interpreter() -> bool:
    program = "\n".join([CODE, *ASSERTS])
    return subprocess.run([sys.executable, "-I", "-"], input=program.encode(), capture_output=True).returncode == 0


def _prime_code() -> Contestant | None:
    verl = importlib.util.find_spec("verl")
    if verl is None or verl.origin is None:
        print("without prime_code: verl is not installed", file=sys.stderr)
        return None
    module = _package_at(Path(verl.origin).parent / "utils" / "reward_score" / "prime_code")
    tests = {
        "fn_name": "find_Rotations",
        "inputs": [json.dumps(argument) for argument, _ in CALLS],
        "outputs": [json.dumps(expected) for _, expected in CALLS],
    }
    return lambda: module.compute_score(CODE, json.dumps(tests))[0] is True


def _package_at(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location(folder.name, folder / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[folder.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Round(NamedTuple):
    latencies: list[float]
    """Milliseconds of each verdict that began within the round's time."""
    seconds: float
    """Until the last of them."""


def _measure(score: Contestant, seconds: float) -> Round:
    begin = time.perf_counter()
    end = begin + seconds

    def repeat() -> list[float]:
        found = []
        while (start := time.perf_counter()) < end:
            if not score():
                raise RuntimeError("a verdict was wrong")
            found.append(1000 * (time.perf_counter() - start))
        return found

    with ThreadPoolExecutor(CONCURRENCY) as threads:
        lists = [threads.submit(repeat) for _ in range(CONCURRENCY)]
        latencies = [latency for each in lists for latency in each.result()]
    return Round(latencies, time.perf_counter() - begin)


def _report(rounds: dict[str, list[Round]]) -> None:
    results = {name: _summary(each) for name, each in rounds.items()}
    ours = next(iter(results.values()))
    print(f"{'':12} {'runs/s':>8} {'least':>7} {'most':>7} {'p50 ms':>8} {'p99 ms':>8} {'first is':>9}")
    for name, each in results.items():
        each["ratio"] = round(ours["runs_per_second"] / each["runs_per_second"], 2)
        print(
            f"{name:12} {each['runs_per_second']:8.1f} {each['least']:7.1f} {each['most']:7.1f} "
            f"{each['p50_ms']:8.2f} {each['p99_ms']:8.2f} {each['ratio']:8.2f}x"
        )
    machine = {"processors": len(os.sched_getaffinity(0)), "python": sys.version.split()[0], "load": os.getloadavg()[0]}
    ratios = [_ratio(name, rounds) for name in list(rounds)[1:]]
    numbers = {"concurrency": CONCURRENCY, "rounds": len(next(iter(rounds.values())))}
    print(json.dumps({"ratios": ratios, **numbers, **machine, **results}))


def _ratio(name: str, rounds: dict[str, list[Round]]) -> dict[str, Any]:
    """A line of run.py's table; each round is a pair of measurements."""
    ours = next(iter(rounds.values()))
    pairs = sorted(_rate(one) / _rate(other) for one, other in zip(ours, rounds[name], strict=True))
    ratio, spread = statistics.median(pairs), [pairs[0], pairs[-1]]
    return {"what": "verdicts/s", "alternative": name, "ratio": ratio, "spread": spread, "runs": len(pairs)}


def _rate(one: Round) -> float:
    return len(one.latencies) / one.seconds


def _summary(rounds: list[Round]) -> dict[str, float]:
    """Runs a second: the median of the rounds, the least and the most; latencies of all rounds together."""
    rates = sorted(map(_rate, rounds))
    latencies = sorted(latency for each in rounds for latency in each.latencies)
    return {
        "runs_per_second": round(statistics.median(rates), 1),
        "least": round(rates[0], 1),
        "most": round(rates[-1], 1),
        "p50_ms": round(statistics.median(latencies), 2),
        "p99_ms": round(latencies[min(int(0.99 * len(latencies)), len(latencies) - 1)], 2),
    }


if __name__ == "__main__":
    main()
