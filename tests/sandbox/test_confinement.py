"""What a run gives up: the filter of system calls, evaluated here for both architectures, and each tier that works."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from leafe_verl.sandbox import CallOutcome, Limits, SandboxPool, available_tiers
from leafe_verl.sandbox.confinement import (
    ABSENT,
    ALLOW,
    AS_ABSENT,
    CLONE,
    DENIED,
    KILL,
    MACHINES,
    NEWEST_NUMBER,
    OPENAT,
    REFUSE,
    WRITING,
    seccomp_filter,
)
from leafe_verl.sandbox.tier_choice import _choose_once, _problem_with
from leafe_verl.sandbox.tiers import TIERS, Tier, zygote_command
from leafe_verl.sandbox.zygote import open_children

I386 = 0x40000003
X32 = 0x40000000
NUMBERS = {
    "x86_64": {
        "read": 0, "write": 1, "open": 2, "close": 3, "mmap": 9, "brk": 12, "ioctl": 16, "socket": 41, "connect": 42,
        "socketpair": 53, "clone": 56, "shmat": 30, "fork": 57, "execve": 59, "kill": 62, "fcntl": 72, "ptrace": 101,
        "prctl": 157, "futex": 202, "exit_group": 231, "openat": 257, "fallocate": 285, "prlimit64": 302,
        "memfd_create": 319, "execveat": 322, "pidfd_send_signal": 424, "clone3": 435, "openat2": 437,
    },
    "aarch64": {
        "fcntl": 25, "ioctl": 29, "fallocate": 47, "openat": 56, "close": 57, "read": 63, "write": 64, "exit_group": 94,
        "futex": 98, "ptrace": 117, "shmat": 196, "kill": 129, "prctl": 167, "socket": 198, "socketpair": 199,
        "connect": 203, "brk": 214, "clone": 220, "execve": 221, "mmap": 222, "prlimit64": 261, "memfd_create": 279,
        "execveat": 281, "pidfd_send_signal": 424, "clone3": 435, "openat2": 437,
    },
}  # fmt: skip
"""Written down here once more, since a wrong number in the tables would also be wrong in a test that reads them."""
REFUSED = {
    "socket", "connect", "fork", "execve", "execveat", "kill", "ptrace", "prctl", "prlimit64", "memfd_create",
    "pidfd_send_signal", "shmat", "fallocate",
}  # fmt: skip
HEADERS = {
    "x86_64": ("asm/unistd_64.h", "x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": ("asm-generic/unistd.h",),
}


def verdict(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """Run a BPF program on a system call, as the kernel does. Returns its action."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<iIQ6Q", number - (1 << 32) if number >> 31 else number, architecture, 0, *padded)
    accumulator = position = 0
    while True:
        code, jump_true, jump_false, value = struct.unpack_from("HBBI", program, 8 * position)
        position += 1
        if code == 0x06:
            return value
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x54:
            accumulator &= value
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
            position += jump_true if holds else jump_false


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_refuses_what_no_solution_needs(machine: str) -> None:
    program, (_, architecture), numbers = seccomp_filter(machine, False), MACHINES[machine], NUMBERS[machine]
    for name in REFUSED & numbers.keys():
        assert verdict(program, architecture, numbers[name]) == REFUSE, name
    for name in ("read", "write", "close", "mmap", "brk", "futex", "exit_group"):
        assert verdict(program, architecture, numbers[name]) == ALLOW, name
    for number in (numbers["clone3"], numbers["openat2"], NEWEST_NUMBER + 1, 463, 469, 1000):
        assert verdict(program, architecture, number) == AS_ABSENT, number


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_looks_at_arguments(machine: str) -> None:
    program, (_, architecture), numbers = seccomp_filter(machine, False), MACHINES[machine], NUMBERS[machine]

    def of(name: str, *arguments: int) -> int:
        return verdict(program, architecture, numbers[name], *arguments)

    assert of("clone", 0x3D0F00) == ALLOW and of("clone", 0x1200011) == REFUSE
    assert of("openat", 0, 0, os.O_RDONLY | os.O_CLOEXEC) == ALLOW
    for flag in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
        assert of("openat", 0, 0, flag) == REFUSE
    assert [of("fcntl", 1, command) for command in (1, 2, 3, 4, 8, 10, 15)] == [ALLOW] * 4 + [REFUSE] * 3
    assert of("fcntl", 1, 1 << 32 | 8) == REFUSE
    assert of("ioctl", 0, 0x5401) == ALLOW and of("ioctl", 0, 0x8901) == of("ioctl", 0, 0x8902) == REFUSE
    assert {of("ioctl", 3, command) for command in (0x40305828, 0x4030582A, 0x40305839)} == {REFUSE}
    assert of("socketpair", 1, 1) == of("socketpair", 1, 1 | 0o4000 | 0o2000000) == ALLOW
    assert of("socketpair", 1, 2) == of("socketpair", 1, 5) == REFUSE


@pytest.mark.parametrize("machine", MACHINES)
def test_with_a_folder_landlock_decides_what_is_written(machine: str) -> None:
    program, (column, architecture) = seccomp_filter(machine, False, writes=True), MACHINES[machine]
    opening = NUMBERS[machine]["openat"]
    for flags in (os.O_WRONLY | os.O_CREAT | os.O_TRUNC, os.O_RDWR | os.O_TRUNC, os.O_WRONLY, os.O_RDONLY):
        assert verdict(program, architecture, opening, 0, 0, flags) == ALLOW
    assert verdict(program, architecture, opening, 0, 0, os.O_RDONLY | os.O_TRUNC) == REFUSE
    for name, numbers in DENIED.items():
        if (number := numbers[column]) is not None:
            assert verdict(program, architecture, number) == (ALLOW if name in WRITING else REFUSE), name
    assert seccomp_filter(machine, True, writes=True) == seccomp_filter(machine, True)


def test_other_sets_of_system_calls_are_deadly() -> None:
    program, (_, architecture) = seccomp_filter("x86_64", False), MACHINES["x86_64"]
    for number in (0, 1, NUMBERS["x86_64"]["execve"]):
        assert verdict(program, architecture, number | X32) == KILL
        assert verdict(program, I386, number) == KILL
        assert verdict(program, MACHINES["aarch64"][1], number) == KILL
    assert verdict(seccomp_filter("aarch64", False), architecture, 63) == KILL


@pytest.mark.parametrize("machine", MACHINES)
def test_the_strict_filter_opens_nothing(machine: str) -> None:
    program, (_, architecture), numbers = seccomp_filter(machine, True), MACHINES[machine], NUMBERS[machine]
    assert verdict(program, architecture, numbers["openat"], 0, 0, os.O_RDONLY) == REFUSE
    if "open" in numbers:
        assert verdict(program, architecture, numbers["open"], 0, os.O_RDONLY) == REFUSE
    assert verdict(program, architecture, numbers["read"]) == ALLOW


def test_there_is_no_filter_for_an_unknown_machine() -> None:
    with pytest.raises(OSError, match="no table of system calls for riscv64"):
        seccomp_filter("riscv64", False)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_are_the_kernels(machine: str) -> None:
    header = next((path for name in HEADERS[machine] if (path := Path("/usr/include", name)).is_file()), None)
    if header is None:
        pytest.skip(f"needs the kernel's headers: one of {HEADERS[machine]} (apt-get install linux-libc-dev)")
    pattern = r"#define __NR(?:3264)?_(\w+)\s+(\d+)"
    known = {name: int(number) for name, number in re.findall(pattern, header.read_text())}
    column = MACHINES[machine][0]
    tables = {**DENIED, **ABSENT, "clone": CLONE, "openat": OPENAT}
    ours = {name: numbers[column] for name, numbers in tables.items() if numbers[column] is not None}
    assert {name: number for name, number in ours.items() if known.get(name, number) != number} == {}
    # Headers older than the newest system calls lack those alone.
    assert {name for name in ours if name not in known} <= {"fchmodat2", "memfd_secret", "process_mrelease"}
    missing = {name for name, numbers in DENIED.items() if numbers[column] is None}
    assert missing.isdisjoint(known) or machine == "aarch64" and missing & known.keys() <= {"fork", "vfork"}
    assert {name: known[name] for name in NUMBERS[machine]} == NUMBERS[machine]


# --- Tiers ---


def descendants() -> set[int]:
    """Processes below this one."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


FORBIDDEN = {
    "signal the zygote": "os.kill(os.getppid(), 0)",
    "fork": "os.fork()",
    "start a program": "os.execv('/bin/true', ['true'])",
    "read a file of the host": "open('/etc/passwd').read()",
    "look into the zygote": "open(f'/proc/{os.getppid()}/environ').read()",
    "write into the zygote": "open(f'/proc/{os.getppid()}/mem', 'r+b')",
    "list a folder": "os.listdir('/')",
    "write a file": "open('/tmp/sandbox_escape', 'w')",
    "make a folder": "os.mkdir('/tmp/sandbox_escape')",
    "raise a limit": "resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9))",
    "reach a descriptor": "[os.fstat(d) for d in range(4, 64)]",
}
REFUSALS = ("PermissionError", "BlockingIOError", "not allowed to raise maximum limit", "Bad file descriptor")


@pytest.mark.parametrize("tier", TIERS, ids=lambda tier: f"tier {tier.number}")
def test_each_tier_that_works_here_holds(tier: Tier) -> None:
    if tier not in available_tiers():
        pytest.skip(f"{tier} does not work here: {_problem_with(tier)}")
    with SandboxPool(workers=1, tier=tier.number) as pool:
        imports = "import os, resource, math, collections"
        result = pool.call(imports, "", [*FORBIDDEN.values(), "math.sqrt(4)"], Limits()).result()
        assert result.failure is None and result.confinement == tier.confinement
        got = dict(zip(FORBIDDEN, result.calls, strict=False))
        allowed = {name: call for name, call in got.items() if not any(refusal in call.text for refusal in REFUSALS)}
        assert allowed == {}
        assert result.calls[-1].value == 2.0
        # The zygote is unharmed.
        assert pool.call("", "", ["1"]).result().calls[0].value == 1
        assert pool.execute("import collections, json\nprint(input())", "a\n").result().stdout == "a\n"


def test_where_no_file_can_be_opened_common_modules_are_there() -> None:
    if not any(tier.strict for tier in available_tiers()):
        pytest.skip("the tier without Landlock does not work here")
    with SandboxPool(workers=1, tier=3) as pool:
        code = "import asyncio, dataclasses, datetime, json, statistics, typing, hashlib, bisect\ndef f(): return 1"
        assert pool.call(code, "", ["f()"]).result().calls[0].value == 1
        (missing,) = pool.call("", "", ["__import__('xml.dom')"]).result().calls
        assert missing.outcome is CallOutcome.RAISED and "ModuleNotFoundError" in missing.text


def test_an_unknown_machine_falls_to_the_tier_without_a_filter(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not any(tier.number == 4 for tier in available_tiers()):
        pytest.skip("the tier without seccomp does not work here")
    reason = "no table of system calls for riscv64"
    module = "leafe_verl.sandbox.tier_choice"
    monkeypatch.setattr(f"{module}._problem_with", lambda tier, *_: reason if tier.seccomp else None)
    _choose_once.cache_clear()
    try:
        with SandboxPool(workers=1) as pool:
            assert pool.call("", "", ["1"]).result().confinement == ("landlock",)
    finally:
        _choose_once.cache_clear()
    (record,) = [record for record in caplog.records if "tier 4" in record.getMessage()]
    assert record.levelname == "WARNING" and reason in record.getMessage()


@pytest.mark.parametrize("tier", available_tiers(), ids=lambda tier: f"tier {tier.number}")
def test_no_process_of_a_sandbox_has_this_ones_environment(tier: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_SECRET", "key")
    before = descendants()
    with SandboxPool(workers=1, tier=tier.number) as pool:
        assert pool.call("", "", ["1"]).result().calls[0].value == 1
        new = descendants() - before
        assert new
        for pid in new:
            with contextlib.suppress(PermissionError):  # a zygote's, where this is not root
                assert b"SANDBOX_SECRET" not in Path(f"/proc/{pid}/environ").read_bytes()


DAEMON = """
import os, socket, sys, time
from leafe_verl.sandbox.confinement import Confinement
from leafe_verl.sandbox.zygote import Zygote, open_children
def work():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0: time.sleep(60)
        os._exit(0)
    os.wait()
    os._exit(3)
confinement = Confinement(landlock=False, seccomp=False, strict=False)
confinement.guard_zygote()
ours, theirs = socket.socketpair()
zygote = Zygote(theirs, confinement, [], open_children())
status, _ = zygote.run(work, [])
print(os.waitstatus_to_exitcode(status))
try: print(os.waitpid(-1, os.WNOHANG))
except ChildProcessError: print("no child is left")
"""


def test_a_daemon_that_leaves_its_session_is_swept() -> None:
    """No tier lets one begin, so that this takes the zygote alone."""
    if open_children() < 0:
        pytest.skip("this kernel has no list of a process's children (CONFIG_PROC_CHILDREN)")
    ended = subprocess.run([sys.executable, "-c", DAEMON], capture_output=True, text=True, timeout=30)
    assert ended.stdout.splitlines() == ["3", "no child is left"], ended.stderr


def test_bubblewrap_is_looked_for_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tier = TIERS[0]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no bwrap on the PATH"):
        zygote_command(tier, 3)
    (tmp_path / "bwrap").touch(mode=0o755)
    command = zygote_command(tier, 3)
    assert command[0] == str(tmp_path / "bwrap") and "--unshare-all" in command and "--setenv" not in command


def test_a_passing_problem_is_not_taken_for_a_lack_of_confinement(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    _choose_once.cache_clear(), _problem_with.cache_clear()
    with SandboxPool(workers=1, with_folder=True, allow_unconfined=True) as pool:
        with monkeypatch.context() as patched:
            patched.setattr("leafe_verl.sandbox.worker.ScratchFolder", full)
            with pytest.raises(RuntimeError, match="can be started now.*No space left"):
                pool.call("", "", ["1"]).result()
        assert pool.call("", "", ["1"]).result().confinement == available_tiers()[0].confinement
