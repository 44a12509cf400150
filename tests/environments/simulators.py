"""A simulator for the tests of worker processes, which breaks in the way that an action names."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from leafe_verl.core.environment import Step
from leafe_verl.core.task import Task
from leafe_verl.environments.simulator import SimulatorEnvironment


class Fragile:
    """Counts its actions."""

    def __init__(self, how: str = "") -> None:
        if how == "hang":
            time.sleep(60)
        if how == "raise":
            raise ModuleNotFoundError("no such game")
        self.count = 0

    def load(self, start: int) -> str:
        self.count = start
        return f"{self.count}"

    def act(self, action: str) -> str:
        if action == "die":
            os._exit(3)
        if action == "be killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "hang":
            time.sleep(60)
        if action == "flood":
            return "x" * 2**21
        if action == "hog":
            return str(len(bytearray(2**28)))
        if action == "raise":
            raise OSError("broken")
        self.count += 1
        return f"{self.count} after {action}"

    def child(self) -> int:
        """Start a process that would outlive this one. Returns its process id."""
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid

    def surroundings(self) -> dict[str, Any]:
        descriptors = [each for each in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{each}")]
        return {"hash seed": os.environ["PYTHONHASHSEED"], "descriptors": len(descriptors), "pid": os.getpid()}


class Counting(SimulatorEnvironment):
    """The environment of `Fragile`. The data of a task hold the number to start from."""

    horizon = 1000

    def start(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        return self.call("load", task.data["start"]), {}

    def advance(self, action: str) -> Step:
        return Step(self.call("act", action), 0.0, False, False, {"success": False, "error": False})
