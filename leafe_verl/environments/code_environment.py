"""What the environments have in common in which an action is an answer with code, and tests judge the code."""

from __future__ import annotations

import ast
import re
import textwrap
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from leafe_verl.core.environment import Step
from leafe_verl.core.task import Task
from leafe_verl.environments import environment_class
from leafe_verl.environments.rows import build_verl_row
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

    @staticmethod
    @abstractmethod
    def build_request(task: Task) -> str:
        """Return the first observation, which asks for the code. It is also the prompt of a single-turn run."""

    @abstractmethod
    def judge(self, answer: str, task: Task) -> CodeVerdict:
        """Run the code in an answer on all tests of a task."""

    @abstractmethod
    def describe(self, verdict: CodeVerdict, task: Task) -> str:
        """Return the observation after an answer. It must not show hidden tests."""

    @classmethod
    def verl_row(cls, task: Task, split: str, index: int) -> dict[str, Any]:
        """Return verl's parquet row, which `task` reads back and a file in reward_fns/ scores."""
        return build_verl_row(task, "code", split, index, cls.build_request(task))

    def reset(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        self.state = CodeState(task)
        return self.build_request(task), {}

    def step(self, action: str) -> Step:
        before = self.state
        verdict = self.judge(action, before.task)
        self.state = replace(before, score=verdict.share)
        solved = verdict.all_passed
        return Step(
            observation=self.describe(verdict, before.task),
            reward=verdict.share - before.score,
            terminated=solved,
            truncated=False,
            info={
                **{"success": solved, "error": not solved, "action": extract_code(action)},
                **{"passed": verdict.passed, "total": len(verdict.tests)},
            },
        )


def answers_with_code(environment: str) -> bool:
    """Return whether the answers in an environment, given by its name, are code."""
    return issubclass(environment_class(environment), CodeEnvironment)


_FENCED = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


def extract_code(answer: str) -> str:
    """Return the code in an answer.

    This is the last fenced block of Python that compiles and defines a function or class; without one, the first
    fenced block; without any, the whole answer. So neither a usage example after the code nor a block that the token
    limit cut off is taken for the code.
    """
    blocks = [(match[1].lower(), textwrap.dedent(match[2])) for match in _FENCED.finditer(answer) if match[2].strip()]
    for languages in (("python", "py", "python3"), ("",)):
        found = [code for language, code in blocks if language in languages]
        if found:
            return next((code for code in reversed(found) if _defines_something(code)), found[0])
    return answer


def _defines_something(code: str) -> bool:
    try:
        statements = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for each in statements)
