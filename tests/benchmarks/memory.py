"""Peak of the memory that a command and all the processes that it starts take together, and what it consists of.

    python tests/benchmarks/memory.py -- bash recipes/leafe_mbpp.sh data.train_batch_size=4

Private memory and files count by a process's proportional share (PSS), so that pages that forks share count once.
Shared memory counts by file, mapped or not: weights on their way to vLLM, and Ray's object store. --series FILE keeps
every sample as a line of JSON, --say SECONDS prints one so often. Needs Linux, and the right to read its children's
/proc. Prints the largest sample last, beside the estimate that the run itself printed when it began.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30
PR_SET_CHILD_SUBREAPER = 36
SHARED = ("/dev/shm/", "/memfd:", "/dev/zero", "/SYSV")
"""What the names of shared memory in /proc begin with."""


@dataclass(frozen=True)
class Sample:
    """Memory of a command's processes at one moment, in bytes."""

    seconds: float
    """Since the command began."""
    processes: dict[str, int]
    """PSS without shared memory, by name and id of the process."""
    shared: int
    """Pages of the shared-memory files that one of them holds open or maps."""

    @property
    def total(self) -> int:
        return sum(self.processes.values()) + self.shared

    def __str__(self) -> str:
        parts = [f"{name} {size / GIB:.2f}" for name, size in self.largest() if size > GIB // 10]
        rest = sum(size for _, size in self.largest() if size <= GIB // 10)
        listed = ", ".join([*parts, f"smaller ones {rest / GIB:.2f}", f"shared memory {self.shared / GIB:.2f}"])
        return f"{self.total / GIB:.2f} GiB after {self.seconds:.0f} s ({listed})"

    def largest(self) -> list[tuple[str, int]]:
        return sorted(self.processes.items(), key=lambda item: -item[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interval", type=float, default=0.5, help="seconds between samples")
    parser.add_argument("--series", type=Path, help="file for every sample")
    parser.add_argument("--say", type=float, default=float("inf"), help="seconds between printed samples")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    # Workers of Ray whose parent has ended then become children of this process.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    command, said, peak = subprocess.Popen(options.command), 0.0, Sample(0.0, {}, 0)
    for sample in samples(command, options.interval):
        peak = max(peak, sample, key=lambda each: each.total)
        if options.series:
            with options.series.open("a") as out:
                out.write(json.dumps({**sample.processes, "shared": sample.shared, "seconds": sample.seconds}) + "\n")
        if sample.seconds - said >= options.say:
            said = sample.seconds
            print("memory:", sample, file=sys.stderr, flush=True)
    print("peak:", peak)
    return command.returncode


def samples(command: subprocess.Popen[bytes], interval: float) -> Iterator[Sample]:
    begun = time.monotonic()
    while command.poll() is None:
        yield take_sample(time.monotonic() - begun)
        time.sleep(interval)


def take_sample(seconds: float) -> Sample:
    """Measure every process that descends from this one."""
    processes: dict[str, int] = {}
    shared: dict[tuple[int, int], int] = {}
    for pid in descendants(os.getpid()):
        with suppress(OSError, KeyError, ValueError):  # it has ended meanwhile
            processes[f"{name_of(pid)} [{pid}]"] = private_share(pid)
            shared.update(shared_files(pid))
    return Sample(seconds, processes, sum(shared.values()))


def descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found, waiting = [], [root]
    while waiting:
        more = children.get(waiting.pop(), [])
        waiting += more
        found += more
    return found


def name_of(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
    return " ".join(os.path.basename(word) for word in words[:3])[:40]


def private_share(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {key: int(value.split()[0]) for key, _, value in (line.partition(":") for line in lines)}
    return (kib["Pss"] - kib["Pss_Shmem"]) * 1024


def shared_files(pid: int) -> Iterator[tuple[tuple[int, int], int]]:
    """Yield device and inode of each file of shared memory that a process has, with the bytes that are in memory."""
    for folder in (f"/proc/{pid}/fd", f"/proc/{pid}/map_files"):
        with suppress(OSError):
            for entry in os.scandir(folder):
                with suppress(OSError):
                    if os.readlink(entry.path).startswith(SHARED):
                        status = os.stat(entry.path)
                        yield (status.st_dev, status.st_ino), status.st_blocks * 512


if __name__ == "__main__":
    sys.exit(main())
