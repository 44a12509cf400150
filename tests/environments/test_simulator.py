"""Worker processes: limits, replacement, the pool under random kills, and no process left behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from environments.simulators import Counting
from leafe_verl.core.environment import EnvironmentFailure, ReplayDivergence
from leafe_verl.core.task import Task
from leafe_verl.environments.simulator import SimulatorPool, pool_from_options, shared_pool
from leafe_verl.environments.simulator_process import SimulatorLimits, SimulatorProcess, SimulatorProgram

FRAGILE = SimulatorProgram("environments.simulators:Fragile")
LIMITS = SimulatorLimits(call_seconds=30, memory_mb=200, reply_mb=1)
TASK, OTHER = (Task(f"from-{start}", "Count.", "counting", {"start": start}) for start in (0, 100))
MakePool = Callable[..., SimulatorPool]


@pytest.fixture
def make_pool() -> Iterator[MakePool]:
    pools = []

    def make(size: int = 1, program: SimulatorProgram = FRAGILE, **limits: float) -> SimulatorPool:
        pools.append(SimulatorPool(program, SimulatorLimits(**{**vars(LIMITS), **limits}), size))  # type: ignore[arg-type]
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def begun(pool: SimulatorPool, task: Task = TASK) -> Counting:
    environment = Counting(pool)
    environment.reset(task, 0)
    return environment


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(pid: int) -> bool:
    deadline = time.monotonic() + 30
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_running(pid)


# --- Limits ---


@pytest.mark.parametrize(
    ("action", "text"),
    [
        ("die", r"exit status 3\); the limit is leafe\.environment\.options\.memory_mb=200"),
        ("be killed", r"SIGKILL"),
        ("flood", r"a reply has \d+ bytes; the limit is leafe\.environment\.options\.reply_mb=1"),
        ("hog", r"MemoryError.*; the limit is leafe\.environment\.options\.memory_mb=200"),
        ("raise", r"act raised OSError: broken"),
    ],
)
def test_what_breaks_is_a_failure_that_says_why_and_is_replaced(make_pool: MakePool, action: str, text: str) -> None:
    pool = make_pool()
    environment = begun(pool)
    (pid,) = pool.processes()
    with pytest.raises(EnvironmentFailure, match=text):
        environment.step(action)
    environment.close()
    assert ends(pid) and pool.counts["lost"] == 1
    assert begun(pool).step("+").observation == "1 after +"


def test_a_hung_call_ends_at_its_limit(make_pool: MakePool) -> None:
    environment = begun(make_pool(call_seconds=5))
    with pytest.raises(EnvironmentFailure, match=r"act took longer than 5 s.*options\.call_seconds=5"):
        environment.step("hang")


@pytest.mark.parametrize(
    ("how", "text"),
    [("hang", r"its start took longer than .*start_seconds"), ("raise", "ModuleNotFoundError: no such")],
)
def test_a_simulator_that_does_not_start_is_a_failure(make_pool: MakePool, how: str, text: str) -> None:
    program = SimulatorProgram(FRAGILE.simulator, (how,))
    with pytest.raises(EnvironmentFailure, match=text):
        begun(make_pool(program=program, start_seconds=1 if how == "hang" else 60))


def test_a_wait_for_a_process_has_a_limit(make_pool: MakePool) -> None:
    pool = make_pool(wait_seconds=0.2)
    first = begun(pool)
    hung = threading.Thread(target=lambda: pytest.raises(EnvironmentFailure, first.step, "hang"))
    hung.start()
    while not pool._places[0].busy:
        time.sleep(0.01)
    with pytest.raises(EnvironmentFailure, match=r"all 1 processes were in calls for 0\.2 s.*options\.processes"):
        begun(pool)
    first.close()  # ends the hung call, as core does after its own limit
    hung.join(30)
    assert not hung.is_alive()


@pytest.mark.parametrize("option", vars(LIMITS))
def test_a_limit_that_makes_no_sense_is_refused_by_name(option: str) -> None:
    with pytest.raises(ValueError, match=rf"leafe\.environment\.options\.{option} is 0"):
        SimulatorLimits(**{option: 0})
    with pytest.raises(ValueError, match=r"leafe\.environment\.options\.processes is 0"):
        shared_pool(FRAGILE, LIMITS, 0)


def test_an_option_that_there_is_not_is_refused_and_what_is_missing_is_said() -> None:
    with pytest.raises(
        ValueError, match=r"unknown leafe\.environment\.options\.memory; .* processes are start_seconds,"
    ):
        pool_from_options(FRAGILE, None, 1, {"memory": 3})
    with pytest.raises(RuntimeError, match="fix it with"):
        pool_from_options(FRAGILE, "not installed; fix it with", 1, {})
    assert pool_from_options(FRAGILE, None, 1, {"call_seconds": 7}) is shared_pool(
        FRAGILE, SimulatorLimits(call_seconds=7), 1
    )


# --- Sharing ---


def test_more_attempts_than_processes_take_turns_by_checked_replay(make_pool: MakePool) -> None:
    pool = make_pool()
    one, two = begun(pool), begun(pool, OTHER)
    assert [(one.step("+").observation, two.step("+").observation) for _ in range(2)] == [
        ("1 after +", "101 after +"), ("2 after +", "102 after +"),
    ]  # fmt: skip
    assert pool.counts["started"] == 1 and pool.counts["taken"] == 5


def test_a_state_that_does_not_come_back_is_refused(make_pool: MakePool) -> None:
    pool = make_pool()
    one = begun(pool)
    one.step("+")
    one._record = one._record.__class__(TASK, 0, ("-",), one._record.digests)
    begun(pool, OTHER)
    with pytest.raises(ReplayDivergence, match="after 1 replayed actions"):
        one.step("+")


def test_a_process_is_kept_between_attempts_and_freed_by_a_forgotten_one(make_pool: MakePool) -> None:
    pool = make_pool()
    for task in (TASK, OTHER, TASK):
        begun(pool, task)  # never closed
    assert pool.counts == {"started": 1}


def test_a_process_that_died_idle_harms_nobody(make_pool: MakePool) -> None:
    pool = make_pool()
    begun(pool).close()
    (pid,) = pool.processes()
    os.kill(pid, signal.SIGKILL)
    assert ends(pid)
    assert begun(pool).step("+").observation == "1 after +"


def test_random_kills_end_attempts_and_nothing_else(make_pool: MakePool) -> None:
    pool, over = make_pool(2), threading.Event()

    def kill() -> None:
        chance = random.Random(0)
        while not over.wait(0.3):
            for pid in pool.processes()[: chance.randint(0, 1)]:
                os.kill(pid, signal.SIGKILL)

    def attempt(seed: int) -> str:
        environment = Counting(pool)
        try:
            environment.reset(TASK, 0)
            assert [environment.step("+").observation for _ in range(40)] == [f"{n} after +" for n in range(1, 41)]
            return "scored"
        except EnvironmentFailure:
            return "unscored"
        finally:
            environment.close()

    killer = threading.Thread(target=kill)
    killer.start()
    with ThreadPoolExecutor(4) as threads:
        outcomes = list(threads.map(attempt, range(16)))
    over.set()
    killer.join()
    assert len(outcomes) == 16 and attempt(16) == "scored"
    assert len(pool.processes()) <= 2 and not any(place.busy for place in pool._places)


# --- Nothing left behind ---


def test_a_worker_has_its_surroundings_and_what_it_started_ends_with_it(make_pool: MakePool) -> None:
    process = SimulatorProcess(FRAGILE, LIMITS)
    process.wait_until_ready()
    surroundings = process.call("surroundings")
    # Standard streams, the socket, and the folder that is being listed.
    assert surroundings == {"hash seed": "0", "descriptors": 4, "pid": process.pid}
    child = process.call("child")
    process.close()
    assert ends(process.pid) and ends(child)
    process.close()


def test_no_descriptor_and_no_process_is_leaked(make_pool: MakePool) -> None:
    begun(make_pool()).close()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        pool = make_pool()
        with pytest.raises(EnvironmentFailure):
            begun(pool).step("die")
        pool.close()
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("how", ["killed", "exits"])
def test_workers_end_with_their_host_and_outlive_the_thread_that_asked(how: str) -> None:
    program = f"""
import json, os, threading, time
from environments.simulators import Counting
from leafe_verl.core.task import Task
from leafe_verl.environments.simulator import SimulatorPool
from leafe_verl.environments.simulator_process import SimulatorLimits, SimulatorProgram
pool = SimulatorPool(SimulatorProgram({FRAGILE.simulator!r}), SimulatorLimits(), 1)
environment = Counting(pool)
thread = threading.Thread(target=environment.reset, args=(Task("a", "", "c", {{"start": 0}}), 0))
thread.start(), thread.join()
time.sleep(0.2)
print(json.dumps([environment.step("+").observation, *pool.processes()]), flush=True)
time.sleep({60 if how == "killed" else 0})
"""
    tests = Path(__file__).parents[1]
    variables = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}"}
    with subprocess.Popen([sys.executable, "-c", program], env=variables, stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        observation, pid = json.loads(host.stdout.readline())
        assert observation == "1 after +"
        if how == "killed":
            host.kill()
    assert ends(pid)


def test_a_forked_copy_of_the_host_starts_processes_of_its_own(make_pool: MakePool) -> None:
    pool = make_pool()
    environment = begun(pool)
    child = os.fork()
    if child == 0:
        good = begun(pool, OTHER).step("+").observation == "101 after +"
        pool.close()
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert environment.step("+").observation == "1 after +"
