"""What a run uses that no limit of the kernel bounds: threads, and files that are deleted but still open or mapped.

Both are read in /proc, where everybody may count threads. The files of a run are shown there to a root that has all of
its rights. Where they are not shown, none are counted.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterable, Iterator

MAX_LOOKED = 4096
"""Open or mapped files of a process that are looked at; more of them are beyond any limit."""


def processes_below(pid: int) -> Iterator[int]:
    """Yield the ids of all processes that descend from one; none if the kernel has no lists of children."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            children = [int(number) for number in file.read().split()]
    except OSError:  # it has ended, or there is no such list
        return
    for child in children:
        yield child
        yield from processes_below(child)


def most_threads(pids: Iterable[int]) -> int:
    """Return the number of threads of the process that has most."""
    return max((len(_names(f"/proc/{pid}/task")) for pid in pids), default=0)


def deleted_files(pids: Iterable[int], device: int) -> Iterator[int]:
    """Yield the bytes of each file of a device that has no name any more, but is open or mapped in a process."""
    seen: set[int] = set()
    for folder in (f"/proc/{pid}/{kind}" for pid in pids for kind in ("fd", "map_files")):
        names = _names(folder)
        if len(names) > MAX_LOOKED:
            yield sys.maxsize
        for name in names:
            with contextlib.suppress(OSError):  # closed meanwhile, or not to be seen by this user
                found = os.stat(f"{folder}/{name}")
                if stat.S_ISREG(found.st_mode) and (found.st_nlink, found.st_dev) == (0, device):
                    if found.st_ino not in seen:
                        yield found.st_blocks * 512
                    seen.add(found.st_ino)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
