"""Peak of the memory that a command and all processes that it starts take together, and what it consists of.

    python tests/benchmarks/memory.py -- bash recipes/leafe_mbpp.sh data.train_batch_size=4

A process counts by its proportional share (PSS) of private and file pages, so that pages of forks count once. Shared
memory counts by file, mapped or not: weights on their way to vLLM, and Ray's object store. With --series FILE every
sample is kept, with --say SECONDS one line is printed so often. Needs Linux, and the right to read its children's /proc.
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

PR_SET_CHILD_SUBREAPER = 36
SHMEM_DEVICES = {os.stat("/dev/shm").st_dev}
GIB = 1 << 30


@dataclass(frozen=True)
class Sample:
    """Memory of a command's processes at one moment, in bytes."""

    seconds: float
    """Since the command began."""
    processes: dict[str, int]
    """PSS without shared memory, by name of the process and its id."""
    shared: int
    """Pages of the shared-memory files that one of them holds open or maps."""

    @property
    def total(self) -> int:
        return sum(self.processes.values()) + self.shared


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interval", type=float, default=0.5, help="seconds between samples")
    parser.add_argument("--series", type=Path, help="file for every sample, a line of JSON each")
    parser.add_argument("--say", type=float, help="print a line every so many seconds")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    # Orphans, such as workers of Ray, become children of this process and stay in its tree.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    command = subprocess.Popen(options.command)
    peak, said = None, 0.0
    for sample in samples(command, options.interval):
        if options.series:
            with options.series.open("a") as out:
                out.write(json.dumps({"s": round(sample.seconds, 1), "total": sample.total, "shared": sample.shared, **sample.processes}) + "\n")
        if options.say and sample.seconds - said >= options.say:
            said = sample.seconds
            print("memory:", render(sample), file=sys.stderr, flush=True)
        if peak is None or sample.total > peak.total:
            peak = sample
    if peak:
        print("peak:", render(peak))
    return command.returncode


def samples(command: subprocess.Popen[bytes], interval: float) -> Iterator[Sample]:
    begun = time.monotonic()
    while command.poll() is None:
        yield take(time.monotonic() - begun)
        time.sleep(interval)


def take(seconds: float) -> Sample:
    """Measure every descendant of this process."""
    processes, shared = {}, {}
    for pid in descendants(os.getpid()):
        with suppress(OSError, ValueError):
            processes[f"{name(pid)}:{pid}"] = private_share(pid)
            shared.update(shared_files(pid))
    return Sample(seconds, processes, sum(shared.values()))


def descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found, queue = [], [root]
    while queue:
        queue += (more := children.get(queue.pop(), []))
        found += more
    return found


def name(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
    return " ".join(os.path.basename(word) for word in words[:4])[:40]


def private_share(pid: int) -> int:
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:] if ":" in line
    )
    kib = {key: int(value.split()[0]) for key, value in fields.items() if value.endswith("kB")}
    return (kib["Pss"] - kib["Pss_Shmem"]) * 1024


def shared_files(pid: int) -> Iterator[tuple[tuple[int, int], int]]:
    for folder in (f"/proc/{pid}/fd", f"/proc/{pid}/map_files"):
        with suppress(OSError):
            for entry in os.scandir(folder):
                with suppress(OSError):
                    target = os.readlink(entry.path)
                    if target.startswith(("/dev/shm/", "/memfd:", "/dev/zero", "/SYSV")):
                        stat = os.stat(entry.path)
                        yield (stat.st_dev, stat.st_ino), stat.st_blocks * 512


def render(sample: Sample) -> str:
    largest = sorted(sample.processes.items(), key=lambda item: -item[1])
    parts = [f"{label} {size / GIB:.2f}" for label, size in largest if size > GIB // 10]
    rest = sum(size for _, size in largest if size <= GIB // 10)
    return (
        f"{sample.total / GIB:.2f} GiB after {sample.seconds:.0f} s: " + ", ".join(parts)
        + f", {len(largest) - len(parts)} small ones {rest / GIB:.2f}, shared memory {sample.shared / GIB:.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())
