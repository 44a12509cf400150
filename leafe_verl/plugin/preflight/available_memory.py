"""How much memory is free for a run, on this machine and in this process's control group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that a run may take; None where the system does not say, as on macOS.

    A control group that allows less than the machine has counts with those around it. Ray kills workers once 95 % of
    the memory are in use, so that a twentieth is left out.

    Args:
        root: The folder that holds `proc` and `sys`.
    """
    try:
        lines = (line.partition(":") for line in (root / "proc/meminfo").read_text().splitlines())
        machine = {key: int(value.split()[0]) * 1024 for key, _, value in lines if value.strip()}
        total, free = machine["MemTotal"], machine["MemAvailable"]
    except (OSError, KeyError, ValueError):
        return None
    rooms = [free - total // 20]
    rooms += [limit - used - limit // 20 for limit, used in _control_groups(root) if limit < total]
    return max(min(rooms), 0)


def _control_groups(root: Path) -> Iterator[tuple[int, int]]:
    """Return limit and use in bytes of the group of this process and of those around it, of both versions of Linux'."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                yield from _limits(root / "sys/fs/cgroup", path, "memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
                yield from _limits(root / "sys/fs/cgroup/memory", path, *names)


def _limits(top: Path, path: str, limit: str, used: str, reclaimable: str) -> Iterator[tuple[int, int]]:
    folder = top / path.strip("/")
    for each in [folder, *folder.parents]:
        # A group without a limit says "max", and the root of version 2 has no such files.
        with suppress(OSError, ValueError):
            statistics = dict(line.split() for line in (each / "memory.stat").read_text().splitlines())
            # Cached pages of files that nobody needs soon are given up before anything is killed.
            taken = int((each / used).read_text()) - int(statistics.get(reclaimable, 0))
            yield int((each / limit).read_text()), taken
        if each == top:
            return
