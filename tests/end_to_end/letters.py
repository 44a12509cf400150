"""An environment that random text solves now and then, so that a random model yields examples of both kinds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from leafe_verl.core import Step, Task


@dataclass(frozen=True)
class State:
    task: Task
    turns: int = 0
    score: float = 0.0


class Letters:
    """Return: share of the last turn's characters that come before `n`; success: more than `threshold` of them."""

    system_prompt = ""
    horizon = 3

    def __init__(self, threshold: float = 0.55, seconds: float = 0.0) -> None:
        self.threshold = threshold
        self.seconds = seconds
        """What a step takes, for runs that are to be met in the middle."""

    def reset(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        self.state = State(task)
        return f"Say {task.instruction}.", {}

    def step(self, action: str) -> Step:
        time.sleep(self.seconds)
        share = round(sum(letter < "n" for letter in action) / max(len(action), 1), 3)
        reward, solved = share - self.state.score, share > self.threshold
        self.state = replace(self.state, turns=self.state.turns + 1, score=share)
        return Step(f"Score {share}.", reward, solved, False, {"success": solved, "error": not solved})

    def snapshot(self) -> State:
        return self.state

    def restore(self, snapshot: State) -> int:
        self.state = snapshot
        return 0

    def close(self) -> None:
        """Does nothing: there are no resources to release."""

    @classmethod
    def task(cls, row: Mapping[str, Any], *, default_key: str | None = None) -> Task:
        return Task(str(row["task_id"]), row["text"], "end_to_end.letters:Letters")

    @classmethod
    def verl_row(cls, task: Task, split: str, index: int) -> dict[str, Any]:
        return {
            "data_source": "letters",
            "prompt": [{"role": "user", "content": f"Say {task.instruction}."}],
            "ability": "letters",
            "reward_model": {"style": "rule", "ground_truth": "{}"},
        }
