"""The targets of hostile programs, and the evidence of harm that was done to them."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
import resource
import secrets
import select
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from leafe_verl.sandbox.pool import SandboxPool
from leafe_verl.sandbox.protocol import Sandbox

CANARY = "the canary sings"
"""Content of a file that anybody may read and write, so that only the sandbox keeps a program from it."""
VARIABLE = "SANDBOX_TEST_SECRET"
WRITABLE_FOLDERS = tuple(
    dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm", "/run", ".", str(Path.home())))
)
GONE_SECONDS = 10.0
"""Longest wait until killed processes are gone or others have started; generous, for a busy machine."""

PRELUDE = """
import os, sys
try: import ctypes
except ImportError: pass  # where even that cannot be loaded, what needs it fails
CANARY, FOLDER, MARK, VARIABLE = {canary!r}, {folder!r}, {mark!r}, {variable!r}
JUDGE, TCP_PORT, UDP_PORT, ABSTRACT = {judge}, {tcp_port}, {udp_port}, {abstract!r}
KEY, SEGMENT = {key}, {segment}
loot = []
def attempt(action, *arguments):
    try:
        got = action(*arguments)
        loot.append(repr(got)[:400])
        return got
    except BaseException as error:
        loot.append(type(error).__name__)
def answer(*_):
    return loot
def system_call(number, *arguments):
    got = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if got < 0: raise OSError(ctypes.get_errno(), "refused")
    return got
try:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(15, MARK.encode(), 0, 0, 0)  # the name that the process list shows, also of its children
except (NameError, OSError):
    libc = None
"""


@dataclass(frozen=True)
class Target:
    """The targets of one program. Each program has its own, so that a harm tells which program did it."""

    mark: str
    """Name of the program's processes, and part of the name of everything that it makes; at most 15 characters."""
    key: int
    """Key of the System V objects that it makes: memory, semaphores and queues, which outlive all processes."""
    folder: Path
    canary: Path

    @classmethod
    def make(cls, mark: str, key: int, folder: Path) -> Target:
        target = cls(mark, key, folder, folder / "canary.txt")
        folder.mkdir(parents=True)
        target.canary.write_text(CANARY)
        # A lax mode, as data sets have: nothing but the sandbox is in the way.
        target.canary.chmod(0o666)
        folder.chmod(0o777)
        return target

    def harms(self) -> list[str]:
        """Return in words what has been done to the targets."""
        if [path.name for path in self.folder.iterdir()] != [self.canary.name]:
            return ["made or deleted files"]
        if self.canary.is_symlink() or self.canary.read_text() != CANARY:
            return ["changed the canary"]
        state = self.canary.stat()
        same = (state.st_mode & 0o777, state.st_nlink, state.st_uid) == (0o666, 1, os.getuid())
        if not same or state.st_mtime < 1 or os.listxattr(self.canary):
            return ["changed the canary's mode, links, owner, time or attributes"]
        return []


class Host:
    """The judge's side: servers that should hear nothing, a signal that should not come, a secret in the environment.

    It is a context manager. Nothing that a program returns may contain one of `secrets`.
    """

    def __init__(self) -> None:
        self.secret = secrets.token_hex(16)
        self.secrets = (CANARY, self.secret, "root:x:0:0")
        self._mark = f"hm{secrets.token_hex(4)}"
        self._keys = secrets.randbits(23) << 8
        self._targets: dict[str, Target] = {}
        self._numbers = itertools.count()  # programs ask for theirs from several threads
        # Open to all users, so that nothing but the sandbox is in the way.
        self._folder = Path(tempfile.mkdtemp(prefix="host-"))
        self._folder.chmod(0o755)
        self._signals: list[int] = []
        self._stack = contextlib.ExitStack()
        self._servers: list[socket.socket] = []
        self._callers: set[str] = set()
        self._abstract = f"hostile-{secrets.token_hex(8)}"
        self._libc = ctypes.CDLL(None)
        self._libc.shmat.restype = ctypes.c_void_p
        self._settings = _own_settings()
        self._processors, self._descriptors = os.sched_getaffinity(0), resource.getrlimit(resource.RLIMIT_NOFILE)

    def __enter__(self) -> Host:
        os.environ[VARIABLE] = self.secret
        self._stack.callback(os.environ.pop, VARIABLE)
        previous = signal.signal(signal.SIGUSR1, lambda number, _: self._signals.append(number))
        self._stack.callback(signal.signal, signal.SIGUSR1, previous)
        self._segment = self._libc.shmget(IPC_PRIVATE, 4096, 0o666)
        ctypes.memmove(self._libc.shmat(self._segment, None, 0), CANARY.encode(), len(CANARY))
        self._stack.callback(self._libc.shmctl, self._segment, IPC_RMID, None)
        self._tcp_port = self._serve(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))[1]
        self._udp_port = self._serve(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))[1]
        self._serve(socket.AF_UNIX, socket.SOCK_DGRAM, "\0" + self._abstract)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        os.sched_setaffinity(0, self._processors)
        resource.setrlimit(resource.RLIMIT_NOFILE, self._descriptors)
        shutil.rmtree(self._folder, ignore_errors=True)
        for _, path in _made(self._mark):
            path.unlink()
        keys = {target.key for target in self._targets.values()}
        for system in SYSTEM_V:
            for identifier in [each for each, key in system.objects().items() if key in keys]:
                system.remove(self._libc, identifier)

    def _serve(self, family: int, kind: int, address: str | tuple[str, int]) -> Any:
        """Start a server and return its address."""
        server = self._stack.enter_context(socket.socket(family, kind))
        server.bind(address)
        if kind == socket.SOCK_STREAM:
            server.listen()
        self._servers.append(server)
        return server.getsockname()

    def prelude(self, name: str) -> str:
        """Return source that tells the program of that name where everything is, so that it need not even guess."""
        number = next(self._numbers)
        mark, key = f"{self._mark}-{number}", self._keys + number
        target = self._targets[name] = Target.make(mark, key, self._folder / name)
        return PRELUDE.format(
            canary=str(target.canary),
            folder=str(target.folder),
            mark=target.mark,
            variable=VARIABLE,
            judge=os.getpid(),
            tcp_port=self._tcp_port,
            udp_port=self._udp_port,
            abstract=self._abstract,
            key=target.key,
            segment=self._segment,
        )

    def harms(self) -> dict[str, list[str]]:
        """Return in words what has been done, by the name of the program that did it; "" if the program is unknown."""
        left = [*_made(self._mark), *_still_there(self._mark)]
        found = {name: target.harms() for name, target in self._targets.items()}
        for name, target in self._targets.items():
            found[name] += [f"left {what}" for mark, what in left if mark == target.mark]
            found[name] += [f"left {system.kind}" for system in SYSTEM_V if target.key in system.objects().values()]
        self._callers.update(self._new_callers())
        for name, target in self._targets.items():
            found[name] += ["spoke to a server"] if target.mark in self._callers else []
        found[""] = [f"the judge got signal {number}" for number in self._signals]
        found[""] += [] if self._segment in SHARED_MEMORY.objects() else ["the judge's shared memory is gone"]
        found[""] += [] if _own_settings() == self._settings else ["the judge's limits or priority have changed"]
        return found

    def _new_callers(self) -> Iterator[str]:
        """Yield the marks that came over the network."""
        while ready := select.select(self._servers, [], [], 0)[0]:
            for server in ready:
                channel = server.accept()[0] if server.type == socket.SOCK_STREAM else server
                channel.settimeout(1)
                yield channel.recv(64).decode()


@dataclass(frozen=True)
class SystemV:
    """One kind of the kernel's System V objects."""

    kind: str
    remove: Callable[[ctypes.CDLL, int], int]

    def objects(self) -> dict[int, int]:
        """Return the number and the key of each object."""
        lines = Path("/proc/sysvipc", self.kind).read_text().splitlines()[1:]
        return {int(line.split()[1]): int(line.split()[0]) for line in lines}


IPC_PRIVATE, IPC_RMID = 0, 0
SHARED_MEMORY = SystemV("shm", lambda libc, identifier: libc.shmctl(identifier, IPC_RMID, None))
SYSTEM_V = (
    SHARED_MEMORY,
    SystemV("sem", lambda libc, identifier: libc.semctl(identifier, 0, IPC_RMID)),
    SystemV("msg", lambda libc, identifier: libc.msgctl(identifier, IPC_RMID, None)),
)


def _own_settings() -> list[object]:
    limits = [resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")]
    return [*limits, os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0), os.sched_getscheduler(0)]


def _made(mark: str) -> Iterator[tuple[str, Path]]:
    """Yield (whole mark, path) of files with the mark in folders that anybody may write to, or one level below."""
    for folder in map(Path, WRITABLE_FOLDERS):
        for pattern in (f"*{mark}*", f"*/*{mark}*"):
            with contextlib.suppress(OSError):
                yield from ((path.name.split(".")[0], path) for path in folder.glob(pattern))


def _still_there(mark: str) -> list[tuple[str, str]]:
    deadline = time.monotonic() + GONE_SECONDS
    while (found := list(_marked(mark))) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def _marked(mark: str) -> Iterator[tuple[str, str]]:
    """Yield (whole mark, process) of processes with the mark in their name or arguments, whatever their parent."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it is gone
            named = (folder / "comm").read_text() + (folder / "cmdline").read_bytes().decode(errors="replace")
            if whole := re.search(rf"{mark}-\d+", named):
                yield whole[0], f"process {folder.name}"


def descendants(ancestor: int) -> set[int]:
    """Return all processes that descend from one, without the process itself."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                # The name, in brackets, may hold anything.
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(folder.name))
    found: set[int] = set()
    waiting = [ancestor]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.update(below)
        waiting += below
    return found


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def settled(excess: Callable[[], int]) -> int:
    """Wait until there is no excess. Returns the excess that is left, after GONE_SECONDS at the latest."""
    deadline = time.monotonic() + GONE_SECONDS
    while (more := excess()) > 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    return max(more, 0)


def memory_bytes(pid: int) -> int:
    """Return the resident memory of a process; 0 if it is gone."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def use_every_worker(pool: SandboxPool) -> None:
    """Make a pool start all of its processes."""
    for run in [pool.execute("import time\ntime.sleep(0.3)", "") for _ in range(2 * pool.workers)]:
        run.result()


def answers_rightly(sandbox: Sandbox) -> bool:
    """Return whether a good program still gets its values and its output."""
    called = sandbox.call("def f(x): return x + 1", "", ["f(1)", "f(2)"])
    program = sandbox.execute("print(input())", "7")
    return [call.value for call in called.result().calls] == [2, 3] and program.result().stdout == "7\n"
