"""How long a run takes to start: seconds from the command to the first sampled token, by vLLM's own counter.

    python tests/benchmarks/start.py --runs 3

All contestants run recipes/leafe_mbpp.sh with the same model and data, one after the other, round by round, so that
other work on the machine hits all of them. Each run is killed once a token is sampled.

this                 the recipe as it is
plain interpreters   the same, but every worker of Ray is an interpreter of its own, which imports what it needs
verl's defaults      that, with verl's and Ray's numbers of workers: 8 that roll out, 8 that score, and a prestarted one
                     for each of Ray's cores

`--profile` also prints what every process of the first contestant has spent until then, in seconds of a core.
Prints a table and, last, a line of JSON.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import psutil

from runs import Run, counters, log_of, median_and_spread, print_table, ratio, started

POLL_SECONDS = 0.25
PLAIN = {"RAY_RUNTIME_ENV_HOOK": "builtins.dict"}
"""A user hook that changes nothing: it replaces the plugin's own hook."""
DEFAULTS = (
    "actor_rollout_ref.rollout.agent.num_workers=8",
    "reward.num_workers=8",
    "ray_kwargs.ray_init._system_config.prestart_worker_first_driver=true",
    "ray_kwargs.ray_init._system_config.enable_worker_prestart=true",
)
CONTESTANTS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "this": ((), {}),
    "plain interpreters": ((), PLAIN),
    "verl's defaults": (DEFAULTS, PLAIN),
}


class Start(NamedTuple):
    seconds: float
    cpu: Counter[str]
    """Seconds of a core by process, until the first token."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contestants", nargs="*", metavar="CONTESTANT", help="; ".join(CONTESTANTS))
    parser.add_argument("--runs", type=int, default=3, help="of each")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args(arguments)
    names = options.contestants or [*CONTESTANTS]
    starts: dict[str, list[Start]] = {name: [] for name in names}
    for _ in range(options.runs):
        for name in names:
            starts[name].append(first_token(*CONTESTANTS[name]))
    if options.profile:
        for title, seconds in starts[names[0]][-1].cpu.most_common():
            print(f"{seconds:8.1f}  {title}")
    report(starts)


def first_token(overrides: Sequence[str], variables: dict[str, str]) -> Start:
    cpu: dict[int, tuple[str, float]] = {}
    with started("leafe_mbpp", "actor_rollout_ref.rollout.disable_log_stats=false", *overrides, **variables) as run:
        while not counters(run.process)["generation_tokens"]:
            if not run.process.is_running() or run.process.status() == psutil.STATUS_ZOMBIE:
                raise RuntimeError(f"the run ended before its first token:\n{log_of(run)}")
            time.sleep(POLL_SECONDS)
            cpu |= _spent(run)
        seconds = time.monotonic() - run.begun
    total: Counter[str] = Counter()
    for title, spent in cpu.values():
        total[title] += spent
    return Start(seconds, total)


def _spent(run: Run) -> dict[int, tuple[str, float]]:
    """Process id -> its latest title and the seconds that it has used, of those that live."""
    found = {}
    for each in [run.process, *run.process.children(recursive=True)]:
        with suppress(psutil.Error), each.oneshot():
            times = each.cpu_times()
            found[each.pid] = (_title(each), times.user + times.system)
    return found


def _title(process: psutil.Process) -> str:
    words = process.cmdline() or [process.name()]
    titled = words[0].startswith(("ray::", "VLLM::"))
    named = [word.rpartition("/")[2] for word in words if not word.startswith("-")]
    return words[0] if titled else " ".join(named[:2])


def report(starts: dict[str, list[Start]]) -> None:
    seconds = {name: [start.seconds for start in each] for name, each in starts.items()}
    (_, ours), *others = seconds.items()
    ratios = [ratio("seconds to the first token", name, ours, each) for name, each in others]
    rows = [[name, len(each), median_and_spread(each)] for name, each in seconds.items()]
    print_table(["started by", "runs", "seconds to the first token"], rows, {"seconds": seconds, "ratios": ratios})


if __name__ == "__main__":
    main()
