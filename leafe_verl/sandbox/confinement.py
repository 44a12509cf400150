"""Runs inside the sandbox's process, before the submitted code: gives up every right that the code has no use for.

Landlock: nothing can be read but the interpreter's library and shared libraries, nothing written. seccomp: no new
process, program or session, no signals, no tracing, no sockets, no changes to the file system, no changes of limits.
The two overlap on purpose: a kernel or container may lack one. Standard library only; sent to the process as text.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # without importing typing, which would double the time this program takes to start
    from collections.abc import Iterator
    from typing import Any

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38

# Denied system calls with their numbers on x86-64 and aarch64 (None: not there).
DENIED: dict[str, tuple[int | None, int | None]] = {
    # Processes, programs and sessions. Only threads are left, which the address space bounds.
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "setsid": (112, 157), "setpgid": (109, 154), "unshare": (272, 97), "setns": (308, 268),
    # Other processes.
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "process_madvise": (440, 440), "kcmp": (312, 272),
    # Limits and shares of the processor, its own and others'.
    "setrlimit": (160, 164), "prlimit64": (302, 261), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    # Network, and what would go round this list.
    "socket": (41, 198), "io_uring_setup": (425, 425), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "open_by_handle_at": (304, 265),
    # What outlives a process.
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # The file system.
    "mount": (165, 40), "umount2": (166, 39), "chroot": (161, 51), "creat": (85, None), "unlink": (87, None),
    "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "link": (86, None), "linkat": (265, 37),
    "symlink": (88, None), "symlinkat": (266, 36), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchmodat2": (452, 452), "chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54),
    "truncate": (76, 45), "mknod": (133, None), "mknodat": (259, 33), "utime": (132, None), "utimes": (235, None),
    "utimensat": (280, 88), "futimesat": (261, None), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
}  # fmt: skip
ABSENT = {"clone3": (435, 435), "openat2": (437, 437)}
"""Answered as by an old kernel, because a filter cannot read the flags behind their pointers: libc falls back."""
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column of the tables, and the kernel's name for the architecture."""
CLONE, OPEN, OPENAT = (56, 220), (2, None), (257, 56)
CLONE_THREAD = 0x10000
OPEN_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
READ_FILE, READ_DIR = 1 << 2, 1 << 3


def confine() -> list[str]:
    """Give the rights up, and return what worked: any of "landlock" and "seccomp"."""
    libc = ctypes.CDLL(None, use_errno=True)
    # The process ends with the judge, also when that is killed.
    libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _drop_capabilities(libc)
    done = []
    for name, apply in (("landlock", _restrict_paths), ("seccomp", _filter_system_calls)):
        try:
            apply(libc)
        except OSError:
            continue
        done.append(name)
    return done


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Root keeps only CAP_DAC_READ_SEARCH: the interpreter may lie in a home folder that is closed to others."""
    header, kept = struct.pack("Ii", 0x20080522, 0), 1 << 2
    if os.geteuid() == 0:
        libc.capset(header, struct.pack("6I", kept, kept, 0, 0, 0, 0))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _restrict_paths(libc: ctypes.CDLL) -> None:
    version = _checked(_system_call(libc, LANDLOCK_CREATE_RULESET, None, 0, 1))
    rights = 13 + (version >= 2) + (version >= 3) + (version >= 5)
    attributes = struct.pack("Q", (1 << rights) - 1)
    attributes += struct.pack("Q", 3) if version >= 4 else b""  # TCP: bind, connect
    attributes += struct.pack("Q", 3) if version >= 6 else b""  # abstract sockets, signals
    ruleset = _checked(_system_call(libc, LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0))
    for path, access in _readable():
        try:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        _checked(_system_call(libc, LANDLOCK_ADD_RULE, ruleset, 1, struct.pack("=Qi", access, opened), 0))
        os.close(opened)
    _checked(_system_call(libc, LANDLOCK_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _system_call(libc: ctypes.CDLL, number: int, *arguments: Any) -> int:
    result: int = libc.syscall(
        ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
    )
    return result


def _readable() -> Iterator[tuple[str, int]]:
    """Yield (path, access): the standard library without installed packages, which may hold data sets, and libraries.

    An access to a folder holds for all beneath it.
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
    for folder in ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo"):
        yield folder, READ_FILE | READ_DIR
    yield "/etc/ld.so.cache", READ_FILE
    yield "/etc/localtime", READ_FILE
    own_libraries = os.path.join(sys.base_prefix, "lib")
    if os.path.isdir(own_libraries):
        for name in os.listdir(own_libraries):
            if ".so" in name:
                yield os.path.join(own_libraries, name), READ_FILE


def _filter_system_calls(libc: ctypes.CDLL) -> None:
    if os.uname().machine not in MACHINES:
        raise OSError(errno.ENOSYS, "no table of system calls for this machine")
    program = _filter(*MACHINES[os.uname().machine])
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    _checked(libc.prctl(PR_SET_SECCOMP, 2, header, 0, 0))


def _filter(column: int, architecture: int) -> bytes:
    """Return the BPF program: load a word, compare, and either return at once or go on."""

    def instruction(code: int, jump_true: int, jump_false: int, value: int) -> bytes:
        return struct.pack("HBBI", code, jump_true, jump_false, value)

    def load(offset: int) -> bytes:
        return instruction(0x20, 0, 0, offset)

    def give(action: int) -> bytes:
        return instruction(0x06, 0, 0, action)

    allow, kill, refuse, absent = give(0x7FFF0000), give(0x80000000), give(0x50000 | errno.EPERM), give(0x50000 | 38)

    def when_number(numbers: tuple[int | None, int | None], *then: bytes) -> list[bytes]:
        number = numbers[column]
        return [] if number is None else [instruction(0x15, 0, len(then), number), *then]

    def flags_at(argument: int, mask: int, if_set: bytes, if_not: bytes) -> list[bytes]:
        return [load(16 + 8 * argument), instruction(0x45, 0, 1, mask), if_set, if_not]

    words = [load(4), instruction(0x15, 1, 0, architecture), kill, load(0)]
    words += [instruction(0x35, 0, 1, 0x40000000), refuse]  # x32, a second set of numbers on x86-64
    for numbers in DENIED.values():
        words += when_number(numbers, refuse)
    for numbers in ABSENT.values():
        words += when_number(numbers, absent)
    words += when_number(CLONE, *flags_at(0, CLONE_THREAD, allow, refuse))
    words += when_number(OPEN, *flags_at(1, OPEN_FOR_WRITING, refuse, allow))
    words += when_number(OPENAT, *flags_at(2, OPEN_FOR_WRITING, refuse, allow))
    return b"".join([*words, allow])
