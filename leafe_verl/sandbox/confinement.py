"""Runs inside the sandbox before submitted code, and gives up every right that the code does not need.

With Landlock, only the interpreter's library and shared libraries can be read, nothing can be written, and no signal
leaves the process. With seccomp, there are no new processes, programs or sessions, no signals, no tracing, no sockets,
and no changes to the file system or to limits. The two overlap on purpose, because a kernel or container may lack one
of them. This module needs only the standard library.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # a smaller zygote forks faster
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_SECCOMP = 1, 4, 8, 22
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
CAP_DAC_READ_SEARCH = 2
FIRST_UID = 1_000_000_000
"""If this is root, a run gets the user id FIRST_UID + its process id, which nothing else on the machine uses."""
MAX_THREADS = 256
"""Number of threads of a run."""

# Denied system calls with their numbers on x86-64 and aarch64 (None: the call does not exist there).
DENIED: dict[str, tuple[int | None, int | None]] = {
    # Processes, programs and sessions. Threads are allowed; see MAX_THREADS.
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "setsid": (112, 157), "setpgid": (109, 154), "unshare": (272, 97), "setns": (308, 268),
    # Other processes.
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "kcmp": (312, 272), "prctl": (157, 167),
    # Limits and shares of the processor, of this process and of others.
    "setrlimit": (160, 164), "prlimit64": (302, 261), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    # Network, and calls that would bypass this list.
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    "io_uring_setup": (425, 425), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "open_by_handle_at": (304, 265),
    # What outlives a process, and memory that no limit counts.
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "vmsplice": (278, 75), "splice": (275, 76),
    "tee": (276, 77), "io_setup": (206, 0),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "semop": (65, 193),
    "semctl": (66, 191), "semtimedop": (220, 192), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188),
    "msgctl": (71, 187), "mq_open": (240, 180), "mq_unlink": (241, 181),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # What concerns the whole machine.
    "syslog": (103, 116), "inotify_add_watch": (254, 27), "fanotify_init": (300, 262), "sync": (162, 81),
    "syncfs": (306, 267),
    # The file system.
    "mount": (165, 40), "umount2": (166, 39), "chroot": (161, 51), "creat": (85, None), "unlink": (87, None),
    "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "link": (86, None), "linkat": (265, 37),
    "symlink": (88, None), "symlinkat": (266, 36), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchmodat2": (452, 452), "chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54),
    "truncate": (76, 45), "mknod": (133, None), "mknodat": (259, 33), "utime": (132, None), "utimes": (235, None),
    "utimensat": (280, 88), "futimesat": (261, None), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "fallocate": (285, 47),  # the limit of a file's size does not hold for what is kept beyond its end
}  # fmt: skip
WRITING = frozenset(
    ("unlink", "unlinkat", "rename", "renameat", "renameat2", "mkdir", "mkdirat", "rmdir", "symlink", "symlinkat")
)
"""Of these, what a run with a folder may use, because Landlock keeps it to that folder. It does not keep changes of
modes, owners, times and attributes there, nor, before its third version, truncate."""
ABSENT = {"clone3": (435, 435), "openat2": (437, 437)}
"""System calls that fail as on an old kernel, so that libc falls back to others. They pass their flags by a pointer,
which a filter cannot follow."""
NEWEST_NUMBER = 456
"""futex_requeue, of Linux 6.7. Later calls have the same numbers on all machines. They are unknown here, and so are
treated as absent."""
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine to its column in the tables above and the kernel's number of its architecture."""
CLONE, OPEN, OPENAT = (56, 220), (2, None), (257, 56)
FCNTL, IOCTL, SOCKETPAIR = (72, 25), (16, 29), (53, 199)
CLONE_THREAD = 0x10000
OPEN_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
COMMANDS = {
    FCNTL: (8, 10, 15, 1031),
    IOCTL: (0x8901, 0x8902, 0x40305828, 0x4030582A, 0x40305839),
}
"""Refused commands. F_SETOWN, F_SETSIG, F_SETOWN_EX, FIOSETOWN and SIOCSPGRP could direct a descriptor's signals at any
process. F_SETPIPE_SZ makes room for memory that no limit counts. FS_IOC_RESVSP, FS_IOC_RESVSP64 and FS_IOC_ZERO_RANGE
do what fallocate does."""
SOCK_TYPE, SOCK_STREAM = 0xF, 1
X32 = 0x40000000
"""Bit that marks the numbers of x86-64's second set of system calls."""
KILL, REFUSE, ALLOW = 0x80000000, 0x50000 | errno.EPERM, 0x7FFF0000
AS_ABSENT = 0x50000 | errno.ENOSYS

LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
READ_FILE, READ_DIR = 1 << 2, 1 << 3
READ_RIGHTS = READ_FILE | READ_DIR
WRITE_RIGHTS = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 13 | 1 << 14
"""Writing files, removing folders and files, making folders, files and symbolic links, moving them to another folder,
truncating. Devices, pipes and sockets are not among them."""


class Confinement:
    """The rights that every run of a zygote gives up. They are prepared once, so that a child only applies them.

    `landlock`, `seccomp`: which of the two to use. `strict`: the seccomp filter refuses to open any file, for use
    without Landlock. `writable`: the folder in which runs may write; None for none. With `strict` they cannot even
    there. Raises OSError if the kernel lacks what is asked for.
    """

    def __init__(self, landlock: bool, seccomp: bool, strict: bool, writable: str | None = None) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.strict = strict
        self._drops_user = os.geteuid() == 0
        self._prctl(PR_SET_NO_NEW_PRIVS, 1)
        self._filter = seccomp_filter(platform.machine(), strict, writes=writable is not None) if seccomp else b""
        self._program = ctypes.create_string_buffer(self._filter, len(self._filter))
        self._header = struct.pack("HxxxxxxP", len(self._filter) // 8, ctypes.addressof(self._program))
        self._keeps_reading = landlock
        self._inner_ruleset = -1
        if landlock:
            # The zygote does not need files either, and a child inherits its restrictions.
            version = self._landlock(LANDLOCK_CREATE_RULESET, None, 0, 1)
            folder = [(writable, READ_RIGHTS | WRITE_RIGHTS)] if writable else []
            self._restrict(self._ruleset(version, READ_RIGHTS, [*_readable(), *folder]))
            if not seccomp:
                # Each child gets a domain of its own, so that it can neither trace nor signal the zygote. With seccomp
                # the filter prevents that, and copying the rules again would cost a tenth of a run's time.
                self._inner_ruleset = self._ruleset(version, 0, folder)

    def guard_zygote(self) -> None:
        """Make this process end with its parent, adopt what a run leaves behind, and refuse to be traced.

        The parent's end sends a signal that this process can catch, so that it can end its run first. The run may have
        cleared its own parent-death signal.
        """
        for option, value in ((PR_SET_PDEATHSIG, 15), (PR_SET_CHILD_SUBREAPER, 1), (PR_SET_DUMPABLE, 0)):
            self._prctl(option, value)

    def apply(self) -> None:
        """Confine this process, a child of the zygote, for good. Raises OSError if any part fails."""
        if self._drops_user:
            self._drop_user()
        # This must follow the change of user, which clears it.
        self._prctl(PR_SET_PDEATHSIG, 9)
        if self._inner_ruleset >= 0:
            self._restrict(self._inner_ruleset)
        if self._filter:
            self._checked(self.libc.prctl(PR_SET_SECCOMP, 2, self._header, 0, 0))

    def _drop_user(self) -> None:
        """Give up root. If Landlock restricts which files are readable, keep root's right to read.

        The interpreter may be in a home folder that is closed to other users.
        """
        kept = 1 << CAP_DAC_READ_SEARCH if self._keeps_reading else 0
        user = FIRST_UID + os.getpid()
        self._prctl(PR_SET_KEEPCAPS, 1)
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            # The limit counts the threads of a user. In a user namespace without this id, it would count the judge's.
            most = resource.getrlimit(resource.RLIMIT_NPROC)[1]
            most = MAX_THREADS if most == resource.RLIM_INFINITY else min(most, MAX_THREADS)
            resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
        except OSError:  # in a user namespace that does not have this id
            pass
        header = struct.pack("Ii", 0x20080522, 0)
        self._checked(self.libc.capset(header, struct.pack("6I", kept, kept, 0, 0, 0, 0)))

    def _ruleset(self, version: int, read_rights: int, allowed: Iterable[tuple[str, int]]) -> int:
        """Return the descriptor of a ruleset that denies all rights that this version of Landlock knows.

        Of the rights to read, it denies only `read_rights`. `allowed`: paths, and the rights that are not denied there.
        """
        rights = (1 << (13 + (version >= 2) + (version >= 3) + (version >= 5))) - 1
        rights = rights & ~READ_RIGHTS | read_rights
        attributes = struct.pack("Q", rights)
        attributes += struct.pack("Q", 3) if version >= 4 else b""  # bind and connect of TCP
        attributes += struct.pack("Q", 3) if version >= 6 else b""  # abstract sockets and signals out of this domain
        ruleset = self._landlock(LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
        for path, access in allowed:
            try:
                opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue
            rule = struct.pack("=Qi", access & rights, opened)
            self._landlock(LANDLOCK_ADD_RULE, ruleset, 1, rule, 0)
            os.close(opened)
        return ruleset

    def _restrict(self, ruleset: int) -> None:
        self._landlock(LANDLOCK_RESTRICT_SELF, ruleset, 0)
        os.close(ruleset)

    def _landlock(self, number: int, *arguments: Any) -> int:
        """Make a system call for which the C library has no function."""
        wide = (ctypes.c_long(each) if isinstance(each, int) else each for each in (number, *arguments))
        return self._checked(self.libc.syscall(*wide))

    def _prctl(self, option: int, value: int) -> None:
        self._checked(self.libc.prctl(option, value, 0, 0, 0))

    def _checked(self, result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result


def _readable() -> Iterator[tuple[str, int]]:
    """Yield (path, access) for the standard library and shared libraries. Access to a folder includes its contents.

    Installed packages are left out, because they may hold data sets.
    """
    for folder in sys.path:
        if not os.path.isdir(folder):
            yield folder, READ_FILE
            continue
        yield folder, READ_DIR
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name not in ("site-packages", "dist-packages"):
                    yield entry.path, READ_FILE | READ_DIR if entry.is_dir() else READ_FILE
    for folder in {os.path.realpath(each) for each in ("/lib", "/lib64", "/usr/lib", "/usr/lib64")}:
        yield from _libraries(folder)
    yield "/usr/share/zoneinfo", READ_FILE | READ_DIR
    yield "/etc/ld.so.cache", READ_FILE
    yield "/etc/localtime", READ_FILE
    own_libraries = os.path.join(sys.base_prefix, "lib")
    if os.path.isdir(own_libraries):
        for name in os.listdir(own_libraries):
            if ".so" in name:
                yield os.path.join(own_libraries, name), READ_FILE


def _libraries(folder: str) -> Iterator[tuple[str, int]]:
    """Yield a folder of shared libraries without what Python has installed below it."""
    if not os.path.isdir(folder):
        return
    yield folder, READ_DIR
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(("python", "pypy")):
                yield entry.path, READ_FILE | READ_DIR if entry.is_dir() else READ_FILE


def seccomp_filter(machine: str, strict: bool, writes: bool = False) -> bytes:
    """Return the BPF program for a machine, which is named as by uname.

    The program loads a word, compares it, and either returns or goes on. `strict` refuses to open any file. `writes`
    leaves to Landlock what is written where; it has no effect with `strict`. Raises OSError for a machine whose system
    calls are not known here.
    """
    if machine not in MACHINES:
        raise OSError(errno.ENOSYS, f"no table of system calls for {machine}; there is one for {', '.join(MACHINES)}")
    column, architecture = MACHINES[machine]
    words = [_load(4), _instruction(JUMP_EQUAL, 1, 0, architecture), _give(KILL), _load(0)]
    words += [_instruction(JUMP_AT_LEAST, 0, 1, X32), _give(KILL)]
    words += [_instruction(JUMP_AT_LEAST, 0, 1, NEWEST_NUMBER + 1), _give(AS_ABSENT)]

    def when(numbers: tuple[int | None, int | None], *then: bytes) -> None:
        number = numbers[column]
        if number is not None:
            words.extend((_instruction(JUMP_EQUAL, 0, len(then), number), *then))

    writes = writes and not strict
    for name, numbers in DENIED.items():
        if not (writes and name in WRITING):
            when(numbers, _give(REFUSE))
    for numbers in ABSENT.values():
        when(numbers, _give(AS_ABSENT))
    when(CLONE, *_if_any(0, CLONE_THREAD, ALLOW, REFUSE))
    for numbers, argument in ((OPEN, 1), (OPENAT, 2)):
        when(numbers, *_opening(argument, strict, writes))
    for numbers, commands in COMMANDS.items():
        when(numbers, *_if_one_of(1, commands, REFUSE, ALLOW))
    # A datagram socket can send to any address, even if it is one of a pair.
    when(SOCKETPAIR, *_if_one_of(1, (SOCK_STREAM,), ALLOW, REFUSE, mask=SOCK_TYPE))
    return b"".join([*words, _give(ALLOW)])


def _opening(argument: int, strict: bool, writes: bool) -> list[bytes]:
    """Decide about a call that opens a file, by its flags."""
    if strict:
        return [_give(REFUSE)]
    if writes:
        # Before its third version, Landlock lets who may only read truncate.
        return _if_one_of(argument, (os.O_TRUNC | os.O_RDONLY,), REFUSE, ALLOW, mask=os.O_TRUNC | os.O_ACCMODE)
    return _if_any(argument, OPEN_FOR_WRITING, REFUSE, ALLOW)


LOAD, RETURN, AND, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY = 0x20, 0x06, 0x54, 0x15, 0x35, 0x45


def _instruction(code: int, jump_true: int, jump_false: int, value: int) -> bytes:
    return struct.pack("HBBI", code, jump_true, jump_false, value)


def _load(offset: int) -> bytes:
    return _instruction(LOAD, 0, 0, offset)


def _give(action: int) -> bytes:
    return _instruction(RETURN, 0, 0, action)


def _argument(index: int) -> bytes:
    """Load the lower half of an argument. Of an int, the kernel reads only that half, too."""
    return _load(16 + 8 * index)


def _if_any(argument: int, mask: int, if_set: int, if_not: int) -> list[bytes]:
    return [_argument(argument), _instruction(JUMP_ANY, 0, 1, mask), _give(if_set), _give(if_not)]


def _if_one_of(argument: int, values: Sequence[int], if_one: int, if_none: int, mask: int = 0xFFFFFFFF) -> list[bytes]:
    words = [_argument(argument), _instruction(AND, 0, 0, mask)]
    words += [_instruction(JUMP_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)]
    return [*words, _give(if_none), _give(if_one)]
