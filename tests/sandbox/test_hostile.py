"""Hostile programs, in every tier that works here: none harms the host, outlives its run or is judged as right."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from leafe_verl.sandbox.judge import CodeVerdict, judge
from leafe_verl.sandbox.pool import SandboxPool
from leafe_verl.sandbox.programs import ProgramTest, judge_program
from leafe_verl.sandbox.protocol import TIMEOUT, Files, Limits, ProgramResult, RunResult, Sandbox
from leafe_verl.sandbox.tier_choice import available_tiers
from leafe_verl.sandbox.tiers import Tier
from sandbox.host import Host, answers_rightly, descendants, open_descriptors, settled, use_every_worker
from sandbox.hostile import HOSTILE, NEEDS_SECCOMP, Hostile

LIMITS = Limits(cpu_seconds=1, wall_seconds=2.5, memory_bytes=256 * 2**20)
AT_A_TIME = 16
"""Programs in flight, most of which wait for a worker."""
WORKERS = 8
RIGHT = 918273
BY_NAME = {hostile.name: hostile for hostile in HOSTILE}


class Recording:
    """A sandbox that keeps all that comes out of another, which a verdict only shows in part."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.came: list[str] = []

    def call(
        self, code: str, setup: str, calls: Sequence[str], limits: Limits = LIMITS, files: Files | None = None
    ) -> Future[RunResult]:
        return self._kept(self._sandbox.call(code, setup, calls, limits, files))

    def execute(self, code: str, stdin: str, limits: Limits = LIMITS) -> Future[ProgramResult]:
        return self._kept(self._sandbox.execute(code, stdin, limits))

    def close(self) -> None:
        """Do nothing: the owner of the other sandbox closes it."""

    def _kept(self, future: Future) -> Future:  # type: ignore[type-arg]
        future.add_done_callback(lambda done: self.came.append(repr(done.exception() or done.result())))
        return future


@dataclass(frozen=True)
class Outcome:
    """The outcome of one program."""

    verdicts: tuple[CodeVerdict, ...]
    came: str
    """Everything that came out of the sandbox, as text."""
    error: RuntimeError | None = None
    """Why there is no verdict."""


@dataclass(frozen=True)
class Aftermath:
    """The state on one tier after all programs have run through one pool."""

    tier: Tier
    outcomes: dict[str, Outcome]
    harms: dict[str, list[str]]
    secrets: tuple[str, ...]
    more_processes: int
    more_descriptors: int
    right_afterwards: bool
    left_when_closed: set[int]


@pytest.fixture(scope="module", params=available_tiers(), ids=str)
def aftermath(request: pytest.FixtureRequest) -> Aftermath:
    others = descendants(os.getpid())
    with Host() as host, SandboxPool(WORKERS, request.param.number) as pool:
        use_every_worker(pool)
        processes, descriptors = len(descendants(os.getpid())), open_descriptors()
        with ThreadPoolExecutor(AT_A_TIME) as threads:
            outcomes = dict(
                zip(BY_NAME, threads.map(lambda hostile: _outcome(hostile, host, pool), HOSTILE), strict=True)
            )
        harms = host.harms()
        more_processes = settled(lambda: len(descendants(os.getpid())) - processes)
        more_descriptors = settled(lambda: open_descriptors() - descriptors)
        right = answers_rightly(pool)
        pool.close()
        return Aftermath(
            request.param,
            outcomes,
            harms,
            host.secrets,
            more_processes,
            more_descriptors,
            right,
            descendants(os.getpid()) - others,
        )


def _outcome(hostile: Hostile, host: Host, pool: SandboxPool) -> Outcome:
    sandbox = Recording(pool)
    code = host.prelude(hostile.name) + hostile.code
    verdicts, error = [], None
    try:
        verdicts.append(judge(code, [f"assert answer(0) == {RIGHT}"], "", sandbox, LIMITS))
        if hostile.as_program:
            verdicts.append(judge_program(code + "print(loot)", [ProgramTest("1\n", str(RIGHT))], sandbox, LIMITS))
    except RuntimeError as problem:
        error = problem
    return Outcome(tuple(verdicts), "\n".join(sandbox.came), error)


@pytest.mark.parametrize("name", BY_NAME)
def test_none_harms_the_host_or_outlives_its_run(aftermath: Aftermath, name: str) -> None:
    _excuse(aftermath.tier, name, aftermath.harms[name])
    assert aftermath.harms[name] == []


@pytest.mark.parametrize("name", BY_NAME)
def test_none_finds_a_secret(aftermath: Aftermath, name: str) -> None:
    found = [secret for secret in aftermath.secrets if secret in aftermath.outcomes[name].came]
    _excuse(aftermath.tier, name, found)
    assert found == []


def _excuse(tier: Tier, name: str, found: list[str]) -> None:
    if found and name in NEEDS_SECCOMP and not tier.seccomp:
        pytest.xfail(f"without seccomp, {name} does harm: {found}")


@pytest.mark.parametrize("name", BY_NAME)
def test_none_is_judged_as_right_or_goes_unscored(aftermath: Aftermath, name: str) -> None:
    outcome = aftermath.outcomes[name]
    assert outcome.error is None
    assert [verdict.passed for verdict in outcome.verdicts] == [0] * (1 + BY_NAME[name].as_program)


def test_the_host_is_as_it_was(aftermath: Aftermath) -> None:
    _excuse(aftermath.tier, "slow_the_parent", aftermath.harms[""])
    assert aftermath.harms[""] == []


def test_no_process_or_descriptor_is_left(aftermath: Aftermath) -> None:
    assert (aftermath.more_processes, aftermath.more_descriptors) == (0, 0)


def test_the_pool_still_answers_and_ends_with_all_its_processes(aftermath: Aftermath) -> None:
    assert aftermath.right_afterwards
    assert aftermath.left_when_closed == set()


def test_the_programs_did_run(aftermath: Aftermath) -> None:
    """Or their coming to nothing would show nothing."""
    reports = {name: outcome.came for name, outcome in aftermath.outcomes.items() if "CallResult" in outcome.came}
    assert "PermissionError" in reports["password_file"]
    assert TIMEOUT in reports["endless_loop"]


OWNER = """
import sys, time
from leafe_verl.sandbox.pool import SandboxPool
from leafe_verl.sandbox.protocol import Limits
pools = [SandboxPool(1, int(number)) for number in sys.argv[2:]]
for pool in pools: pool.call("", "", ["1"]).result()
print("ready", flush=True)
sys.stdin.readline()
for pool in pools: pool.call(sys.argv[1], "", ["1"], Limits(60, 600))
time.sleep(600)
"""
STAYING = """
import ctypes, signal, time
ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)  # no signal when the parent ends
for number in range(1, signal.NSIG):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
time.sleep(10**6)
"""


def _ignores_signals(pid: int) -> bool:
    """Whether STAYING has got as far as its sleep."""
    status = Path(f"/proc/{pid}/status").read_text()
    ignored = next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn"))
    return bool(int(ignored, 16) >> (signal.SIGUSR2 - 1) & 1)


@pytest.mark.parametrize("seccomp", [True, False])
def test_a_program_ends_with_a_judge_that_is_killed(seccomp: bool) -> None:
    tiers = [str(tier.number) for tier in available_tiers() if tier.seccomp == seccomp]
    arguments = [sys.executable, "-c", OWNER, STAYING, *tiers]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdin is not None and owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        owner.stdin.write("\n")
        owner.stdin.flush()
        assert settled(lambda: len(tiers) - sum(map(_ignores_signals, descendants(owner.pid)))) == 0
        processes = descendants(owner.pid)
        owner.kill()
    left = settled(lambda: sum(Path(f"/proc/{pid}").exists() for pid in processes))
    for pid in processes if left else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert left == 0


def test_the_evidence_is_found() -> None:
    """What the other tests look for, done by unconfined programs."""
    codes = {
        "files": "open(CANARY, 'w').write('changed'); open(f'/tmp/{MARK}', 'w').close()",
        "folder": "open(f'{FOLDER}/{MARK}', 'w').close()",
        "attributes": "os.utime(CANARY, (0, 0))",
        "network": "import socket; socket.create_connection(('127.0.0.1', TCP_PORT)).send(MARK.encode())",
        "shared": "system_call(29, KEY, 4096, 0o1666)",
        "judge": "import signal; os.kill(JUDGE, signal.SIGUSR1)",
        "nothing": "",
    }
    with Host() as host:
        programs = [host.prelude(name) + code for name, code in codes.items()]
        for program in programs:
            subprocess.run([sys.executable, "-c", program], check=True)
        found = host.harms()
    assert {name: len(harms) for name, harms in found.items() if harms} == {
        "files": 2, "folder": 1, "attributes": 1, "network": 1, "shared": 1, "": 1
    }  # fmt: skip
