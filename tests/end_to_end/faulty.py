"""`Letters`, broken: each task brings about one fault, named in its row."""

from __future__ import annotations

import json
import os
import random
import signal
import string
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from end_to_end.letters import Letters
from leafe_verl.core import Step, Task
from leafe_verl.sandbox import Limits, default_pool

LEAK_BYTES = 2 * 2**30
STALL_SECONDS = 36.0
"""Longer than the run's leafe.generation.timeout."""
_once: set[str] = set()
_leaked: list[bytes] = []


class Faulty(Letters):
    """`marks`: a folder that remembers what must not happen again once another process has taken this one's place."""

    def __init__(self, marks: str, **options: Any) -> None:
        super().__init__(**options)
        self.marks = Path(marks)

    def reset(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        fault = task.data["fault"]
        if fault == "die" and self._first(fault):
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "stall" and self._first(fault):
            stall(inference_engines())
        if fault == "kill server" and self._first(fault):
            for engine in inference_engines()[:1]:
                engine.kill()
        return super().reset(task, seed)

    def step(self, action: str) -> Step:
        fault = self.state.task.data["fault"]
        if fault == "raise":
            raise RuntimeError("broken")
        if fault == "hang":
            time.sleep(3600)
        if fault == "leak" and not _leaked:
            _leaked.append(b"x" * LEAK_BYTES)
        if fault == "kill sandbox" and fault not in _once:
            _once.add(fault)
            lose_a_sandbox()
        step = super().step(action)
        if fault == "flood":
            return step._replace(observation="x" * 2_000_000)
        if fault == "fill":
            return step._replace(observation="".join(random.choices(string.printable, k=900_000)))
        return step

    def _first(self, fault: str) -> bool:
        try:
            (self.marks / fault.replace(" ", "_")).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    @classmethod
    def task(cls, row: Mapping[str, Any], *, default_key: str | None = None) -> Task:
        fault = row.get("fault", "none")
        return Task(f"{fault}{row['task_id']}", row["text"], "end_to_end.faulty:Faulty", {"fault": fault})


def inference_engines() -> list[psutil.Process]:
    """vLLM's engines of the run to which this rollout worker belongs."""
    raylet = psutil.Process().parent()
    assert raylet is not None
    return [each for each in raylet.children(recursive=True) if "EngineCore" in " ".join(each.cmdline())]


def stall(processes: list[psutil.Process]) -> None:
    for process in processes:
        process.suspend()
        threading.Timer(STALL_SECONDS, process.resume).start()


def lose_a_sandbox() -> None:
    """Kill the sandbox's process while a program runs in it; that ends with it, and may be gone before one looks."""
    before = set(psutil.Process().children())
    default_pool(1).call("", "", ["1"]).result()
    answer = default_pool(1).call("import time\ntime.sleep(2)", "", ["1 + 1"], Limits(wall_seconds=30))
    time.sleep(1)
    for each in set(psutil.Process().children()) - before:
        each.kill()
    assert answer.result(60).failure is None, "the run is repeated in another one"


def write_faults(path: Path, faults: list[str]) -> Path:
    rows = [{"task_id": i, "text": f"word{i}", "fault": fault} for i, fault in enumerate(faults)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
