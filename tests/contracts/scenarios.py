"""What each registered environment plays in the contract suite. A new environment adds one scenario here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from leafe_verl.core.environment import Environment, ReplayEnvironment, Step
from leafe_verl.core.task import Task
from leafe_verl.environments import environment_class, make


@dataclass(frozen=True)
class Scenario:
    """Tasks and lists of actions; every list is played on every task."""

    new: Callable[[], Environment]
    """Makes an instance. Of the module's top level, so that a fresh interpreter finds it."""
    tasks: tuple[Task, ...]
    plays: tuple[tuple[str, ...], ...]
    """Good, bad, nonsense and empty actions; none ends the attempt before its list does."""
    solution: tuple[str, ...]
    """Solves the first task with its last action."""


class Counter(ReplayEnvironment):
    """Count to `goal`: + and - move, anything else is an error. The smallest environment that replays."""

    horizon = 9

    def start(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        self.goal, self.count = task.data["goal"], seed % 2
        return f"{self.count} of {self.goal}", {}

    def advance(self, action: str) -> Step:
        moves = {"+": 1, "-": -1}
        if action not in moves:
            return Step(f"{action!r} is neither + nor -", 0.0, False, False, {"success": False, "error": True})
        self.count += moves[action]
        solved = self.count == self.goal
        return Step(f"{self.count} of {self.goal}", float(solved), solved, False, {"success": solved, "error": False})


def _counter() -> Scenario:
    tasks = tuple(Task(f"count-{goal}", "Count.", "counter", {"goal": goal}) for goal in (4, 7))
    plays = (("+", "-", "+"), ("count!", "", "+", "-"), ())
    return Scenario(Counter, tasks, plays, ("+", "", "+", "+", "+"))


def _mbpp() -> Scenario:
    rows = [
        {
            "task_id": 1,
            "text": "Write a function to return the letters of a word, each once.",
            "test_list": ["assert letters('aba') == {'a', 'b'}", "assert letters('hello') == set('hello')"],
            "challenge_test_list": ["assert letters('') == set()"],
        },
        {
            "task_id": 2,
            "text": "Write a function to return the smallest of three numbers.",
            "test_list": ["assert least(3, 1, 2) == 1", "assert abs(least(0.5, 1, 2) - 0.5) < 1e-9"],
        },
    ]
    # The order of a set of texts, and an address: both differ between processes unless something is done about it.
    hashed = (
        "```python\ndef letters(word): return list(set(word + 'xyz'))\ndef least(*a): return list(map(str, {*a}))\n```"
    )
    address = "```python\ndef letters(word): raise ValueError(object())\nleast = letters\n```"
    half = "```python\ndef letters(word): return {'a', 'b'}\ndef least(*a): return min(a) // 1\n```"
    solved = "```python\ndef letters(word): return set(word)\n```"
    plays = ((hashed, half, address), ("I do not know.", "", half), (half, "```python\ndef letters(:", half), ())
    tasks = tuple(map(environment_class("mbpp").task, rows))
    return Scenario(_new_mbpp, tasks, plays, (half, "", solved))


def _new_mbpp() -> Environment:
    return make("mbpp", cpu_seconds=1)


SCENARIOS: Mapping[str, Callable[[], Scenario]] = {"mbpp": _mbpp, "counter": _counter}
"""Name to scenario: one for every registered environment, and the counter for `ReplayEnvironment` itself."""


def transcript(environment: Environment, task: Task, actions: tuple[str, ...], seed: int = 0) -> list[Any]:
    """Everything that an environment answers from reset on."""
    return [environment.reset(task, seed), *(environment.step(action) for action in actions)]


def all_transcripts(name: str) -> list[list[Any]]:
    """Of each task in turn, one for each play."""
    scenario = SCENARIOS[name]()
    return [transcript(scenario.new(), task, actions) for task in scenario.tasks for actions in scenario.plays]
