"""A complete environment: guess a number, told higher or lower. leafe.environment.name=environments.example:Guess"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leafe_verl.core import ReplayEnvironment, Step, Task
from leafe_verl.environments.rows import read_fields, task_key


class Guess(ReplayEnvironment):
    """Rolled back by replaying the actions, every observation checked; for that it must be deterministic."""

    system_prompt = "Guess a whole number. Answer with digits alone."
    horizon = 8

    def start(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        self.number: int = task.data["number"]
        return f"{task.instruction} It is between 1 and 100.", {}

    def advance(self, action: str) -> Step:
        guess = action.strip()
        if not guess.isascii() or not guess.isdecimal() or len(guess) > 3:
            return self._told("Answer with digits alone.", error=True)
        if int(guess) == self.number:
            return self._told("That is it.", solved=True)
        return self._told("It is lower." if int(guess) > self.number else "It is higher.")

    @staticmethod
    def _told(observation: str, solved: bool = False, error: bool = False) -> Step:
        # Every guess is judged, so that a wrong number has failed, although it is no error.
        info = {"success": solved, "error": error, "failed": not solved}
        return Step(observation, reward=float(solved), terminated=solved, truncated=False, info=info)

    @classmethod
    def task(cls, row: Mapping[str, Any], *, default_key: str | None = None) -> Task:
        """Read a line such as {"task_id": "a", "number": 42}, or the row that `build_verl_row` makes of it."""
        fields = read_fields(row)
        if not isinstance(fields.get("number"), int):
            raise ValueError(f"number is {fields.get('number')!r}; expected an integer")
        return Task(task_key(fields, default_key), "Guess my number.", data={"number": fields["number"]})
