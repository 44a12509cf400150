"""ScienceWorld (arXiv 2203.07540): elementary-school experiments in text. Each simulator runs in its own process."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Mapping
from typing import Any

from leafe_verl.core.environment import Step
from leafe_verl.core.task import Task
from leafe_verl.environments.options import require_at_least, require_whole
from leafe_verl.environments.react import FORM, NO_ACTION, extract_command
from leafe_verl.environments.rows import read_count, read_fields, task_key
from leafe_verl.environments.simulator import SimulatorEnvironment, pool_from_options
from leafe_verl.environments.simulator_process import SimulatorProgram

NAME = "scienceworld"
EXTRA = "pip install leafe-verl[scienceworld]"
COMMANDS = (
    "open OBJ, close OBJ, activate OBJ, deactivate OBJ, connect OBJ to OBJ, disconnect OBJ, use OBJ, use OBJ on OBJ, "
    "look around, look at OBJ, look in OBJ, read OBJ, move OBJ to OBJ, pick up OBJ, put down OBJ, pour OBJ into OBJ, "
    "dunk OBJ into OBJ, mix OBJ, go to LOC, eat OBJ, flush OBJ, focus on OBJ, wait, wait1, task, inventory"
)
SYSTEM_PROMPT = f"""\
You carry out experiments in a simulated house, in text. OBJ is an object and LOC a room that you can see.
Actions: {COMMANDS}.
`focus on` says that an object is the one that the task asks for; focusing on a wrong one fails the task. wait is ten \
steps of time, wait1 is one. When a request is ambiguous, answer with the number of what you mean.
{FORM.format(thought="I need the metal pot, which is in the kitchen.", action="go to kitchen")}"""

# Identity hashes decide the order of objects and what sensors read. With the JVM's default hashes, the same actions
# gave other observations in 20 of 60 tasks; constant hashes make the simulator deterministic. The serial garbage
# collector saves 0.7 GB. Performance data are turned off because a killed JVM would leave their file in /tmp.
JAVA_OPTIONS = "-XX:+UnlockExperimentalVMOptions -XX:hashCode=2 -XX:+UseSerialGC -Xmx256m -XX:-UsePerfData"
_UNKNOWN = "No known action matches that input."
_TASK = re.compile(r"[a-z0-9-]+")


class ScienceWorld(SimulatorEnvironment):
    """An attempt's return is the benchmark's score, 0 to 1.

    The simulator gives a score of -1 (-100 in its Python package) when a task is lost for good, for example by a focus
    on a wrong object. As in the benchmark's published scores, that counts as 0, so the last reward takes back what was
    gained. An answer without an action, or with an unknown one, changes nothing and costs a step; the observation says
    so. Rollback is by replay, which checks every observation.
    """

    ability = "science"

    def __init__(
        self,
        horizon: int = 30,
        valid_actions: int = 0,
        system_prompt: str = SYSTEM_PROMPT,
        processes: int | None = None,
        **limits: float,
    ) -> None:
        """`horizon`: actions after which an attempt ends; the benchmark's gold paths have 2 to 206 actions.

        `valid_actions`: how many valid actions each observation ends with, spread evenly over the sorted list of all;
        0 for none. `processes`: JVMs, of 0.4 GB each, that the environments of a process (a rollout worker) share; None
        for one per processor. `limits`: the fields of `SimulatorLimits`. Raises RuntimeError if the extra or Java is
        not installed.
        """
        require_whole(1, horizon=horizon)
        require_at_least(0, valid_actions=valid_actions)
        super().__init__(pool_from_options(PROGRAM, missing(), processes, limits))
        self.system_prompt = system_prompt
        self.horizon = horizon
        self.valid_actions = valid_actions
        self._score = 0.0

    @classmethod
    def task(cls, row: Mapping[str, Any], *, default_key: str | None = None) -> Task:
        """Return the task of a row such as {"task": "boil", "variation": 3}, or of verl's parquet files.

        `task` is a name of the benchmark, and `variation` a number that belongs to the split in use. The key is
        `task_id`, by default made of both. Raises ValueError that says what came and what was expected.
        """
        fields = read_fields(row)
        name, variation = fields.get("task"), read_count(fields, "variation")
        if not isinstance(name, str) or not _TASK.fullmatch(name):
            raise ValueError(f"task is {name!r:.80}; expected a task's name, such as boil or find-living-thing")
        if variation is None:
            raise ValueError("no variation; expected its number")
        instruction = fields.get("text") or f"ScienceWorld's task {name}, variation {variation}."
        return Task(task_key(fields, f"{name}-{variation}"), instruction, NAME, {"task": name, "variation": variation})

    def start(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        # The seed is not used: a variation is one world.
        state = self.call("load", task.data["task"], task.data["variation"], self.valid_actions)
        self._score = 0.0
        return self._shown(f"{state['description']}\n{state['observation']}", state), {}

    def advance(self, action: str) -> Step:
        command = extract_command(action)
        if command is None:
            return self._step({"observation": NO_ACTION, "score": self._score, "completed": False}, error=True)
        state = self.call("act", command, self.valid_actions)
        return self._step(state, error=state["observation"].startswith(_UNKNOWN), action=command)

    def _step(self, state: Mapping[str, Any], error: bool, **told: str) -> Step:
        score, lost = max(state["score"], 0.0), state["score"] < 0
        reward, self._score = score - self._score, score
        terminated = state["completed"] or lost
        success = terminated and score >= 1
        return Step(
            observation=self._shown(state["observation"], state),
            reward=reward,
            terminated=terminated,
            truncated=False,
            info={"success": success, "error": error, "score": score, **told},
        )

    @staticmethod
    def _shown(observation: str, state: Mapping[str, Any]) -> str:
        valid = state.get("valid_actions")
        return f"{observation}\nSome valid actions: {', '.join(valid)}." if valid else observation


def missing() -> str | None:
    """Return what is not installed and the command that installs it; None if ScienceWorld can be played."""
    if importlib.util.find_spec("scienceworld") is None:
        return f"ScienceWorld is not installed; fix it with: {EXTRA}"
    if shutil.which("java") is None:
        return "ScienceWorld needs Java 8 or newer, and finds none; fix it with: apt install default-jre-headless"
    return None


class ScienceWorldSimulator:
    """The package's JVM behind methods that take and return JSON values. Runs in a worker process.

    A process has only one simulator, because ids and random numbers are global in a JVM.
    """

    def __init__(self) -> None:
        from scienceworld import ScienceWorldEnv

        # The simulator's own step limit must not end the attempt before the horizon.
        self._env = ScienceWorldEnv("", envStepLimit=10**9)

    def load(self, task: str, variation: int, valid_actions: int) -> dict[str, Any]:
        """Start a task. Raises ValueError if there is no such task."""
        self._check(task, variation)
        # A reset() afterwards would build the same world a second time.
        self._env.load(task, variation, "", generateGoldPath=False)
        description = self._env.get_task_description()
        return {"description": description, **self._state(self._env.look(), valid_actions)}

    def act(self, command: str, valid_actions: int) -> dict[str, Any]:
        """Execute one action. The package's step() also looks, lists and describes, which takes ten times as long."""
        return self._state(self._env.server.step(command), valid_actions)

    def gold_path(self, task: str, variation: int) -> list[str]:
        """Return actions that solve the task. Every later `load` computes such a path, too."""
        self._check(task, variation)
        self._env.load(task, variation, "", generateGoldPath=True)
        return list(self._env.get_gold_action_sequence())

    def variations(self, task: str, split: str) -> list[int]:
        """Return the variations of a task in a split of the benchmark: train, dev or test."""
        self._env.load(task, 0, "", generateGoldPath=False)
        return list(getattr(self._env, f"get_variations_{split}")())

    def task_names(self) -> list[str]:
        return list(self._env.get_task_names())

    def _check(self, task: str, variation: int) -> None:
        if task not in self._env.get_task_names():
            raise ValueError(f"there is no task {task!r}; expected one of {', '.join(self._env.get_task_names())}")
        number = self._env.get_max_variations(task)
        if variation >= number:
            raise ValueError(f"{task} has no variation {variation}; expected 0 to {number - 1}")

    def _state(self, observation: str, valid_actions: int) -> dict[str, Any]:
        score, completed = self._env.server.getScore(), self._env.server.getCompleted()
        state: dict[str, Any] = {"observation": observation, "score": round(score, 2), "completed": completed}
        if valid_actions:
            commands = sorted(set(self._env.get_valid_action_object_combinations()))
            state["valid_actions"] = commands[:: max(-(-len(commands) // valid_actions), 1)]
        return state


PROGRAM = SimulatorProgram(
    "leafe_verl.environments.scienceworld:ScienceWorldSimulator", variables=(("JAVA_TOOL_OPTIONS", JAVA_OPTIONS),)
)
