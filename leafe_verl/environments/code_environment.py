"""What the environments have in common in which an action is an answer with code, and tests judge the code."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from leafe_verl.core.environment import Step
from leafe_verl.core.task import Task
from leafe_verl.environments import environment_class
from leafe_verl.environments.extraction import Extraction
from leafe_verl.environments.failed_verdicts import failed_verdicts
from leafe_verl.environments.state_environment import StateEnvironment
from leafe_verl.sandbox import CodeVerdict

NO_CODE = "The answer holds no code."


@dataclass(frozen=True)
class CodeState:
    """The state of an attempt. Earlier actions matter only for the reward of the next one."""

    task: Task
    score: float = 0.0
    """Share of the tests that the latest code passed. The rewards so far add up to it."""


class CodeEnvironment(StateEnvironment[CodeState]):
    """Base class. An attempt's return is the share of the tests that the code of its last action passed."""

    ability = "code"
    remember_failures: bool = True
    """Whether code that has failed the tests is not run on them again in the same tree."""

    @staticmethod
    @abstractmethod
    def build_request(task: Task) -> str:
        """Return the first observation, which asks for the code. It is also the prompt of a single-turn run."""

    @staticmethod
    @abstractmethod
    def extract(answer: str, task: Task) -> Extraction:
        """Return the code in an answer that is judged."""

    @abstractmethod
    def judge(self, code: str, task: Task) -> CodeVerdict:
        """Run code on all tests of a task. All fail with NO_CODE if it is empty."""

    @abstractmethod
    def judged_by(self) -> Hashable:
        """Return everything that decides a verdict beside the code and the task: sandbox, limits and comparison."""

    @abstractmethod
    def describe(self, verdict: CodeVerdict, task: Task) -> str:
        """Return the observation after an answer. It must not show hidden tests."""

    def reset(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        self.state = CodeState(task)
        return self.build_request(task), {}

    def step(self, action: str) -> Step:
        before = self.state
        extraction = self.extract(action, before.task)
        verdict = self._recall_or_judge(extraction.code, before.task)
        self.state = replace(before, score=verdict.share)
        solved = verdict.all_passed
        return Step(
            observation=self.describe(verdict, before.task),
            reward=verdict.share - before.score,
            terminated=solved,
            truncated=False,
            info={
                "success": solved,
                "error": not solved,
                "action": extraction.code,
                "choice": extraction.choice.name.lower(),
                "passed": verdict.passed,
                "total": len(verdict.tests),
                "timed_out": verdict.timed_out,
            },
        )

    def _recall_or_judge(self, code: str, task: Task) -> CodeVerdict:
        if not self.remember_failures:
            return self.judge(code, task)
        key = (type(self), self.judged_by(), code)
        return failed_verdicts(task).recall(key, lambda: self.judge(code, task))


def answers_with_code(environment: str) -> bool:
    """Return whether the answers in an environment, given by its name, are code."""
    return issubclass(environment_class(environment), CodeEnvironment)
