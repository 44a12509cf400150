"""Code that has failed is judged once in a tree; nothing else is."""

from __future__ import annotations

import gc
from concurrent.futures import Future

import pytest

from leafe_verl.core import Task
from leafe_verl.environments import failed_verdicts as memory
from leafe_verl.environments.codecontests import CodeContests
from leafe_verl.environments.failed_verdicts import FailedVerdicts, failed_verdicts, is_lasting
from leafe_verl.environments.mbpp import MBPP
from leafe_verl.sandbox import CodeVerdict, SandboxLost, TestResult
from leafe_verl.sandbox.encoding import GOES_ON, OUT_OF_TIME
from leafe_verl.sandbox.protocol import LOST, TIMEOUT, CallOutcome, CallResult, ProgramResult, RunResult

ROW = {
    "task_id": 5,
    "text": "Write a function to double a number.",
    "code": "",
    "test_list": ["assert double(1) == 2"],
    "test_setup_code": "",
    "challenge_test_list": [],
}
PROBLEM = {
    "name": "double",
    "description": "Double a number.",
    "public_tests": {"input": ["1\n"], "output": ["2\n"]},
    "private_tests": {"input": [], "output": []},
    "generated_tests": {"input": [], "output": []},
    "time_limit": None,
    "memory_limit_bytes": 0,
}


class Counting:
    """A sandbox in which every call returns the number `gives`, and every program prints it. It counts its runs."""

    def __init__(self, gives=3, failure=None):
        self.gives, self.failure, self.runs = gives, failure, 0

    def call(self, code, setup, calls, limits, files=None):
        missing = CallResult(CallOutcome.NOT_REACHED)
        answer = CallResult(CallOutcome.VALUE, self.gives) if self.failure is None else missing
        return self._answered(RunResult((answer,) * len(calls), self.failure))

    def execute(self, code, stdin, limits, files=None):
        return self._answered(ProgramResult(f"{self.gives}\n", self.failure))

    def close(self):
        pass

    def _answered(self, result):
        self.runs += 1
        future = Future()
        future.set_result(result)
        return future


def answer(body):
    return f"```python\ndef double(n):\n    return {body}\n```"


def play(task, sandbox, *answers, kind=MBPP, **options):
    """Play one attempt in an environment of its own, as every attempt has."""
    environment = kind(sandbox, **options)
    environment.reset(task, 0)
    return [environment.step(each) for each in answers]


def test_code_that_failed_is_judged_once_by_all_attempts_of_a_tree():
    task, sandbox = MBPP.task(ROW), Counting()
    first, again = play(task, sandbox, answer("3"), f"Sorry.\n{answer('3')}")
    assert sandbox.runs == 1
    assert (first.observation, first.info) == (again.observation, again.info)
    assert (first.reward, again.reward) == (0.0, 0.0)
    assert play(task, sandbox, answer("3")) == [first] and sandbox.runs == 1
    play(task, sandbox, answer("n + 2"))
    assert sandbox.runs == 2, "other code"


def test_programs_that_failed_are_judged_once():
    task, sandbox = CodeContests.task(PROBLEM), Counting()
    program = "```python\nprint(3)\n```"
    first, again = play(task, sandbox, program, program, kind=CodeContests)
    assert sandbox.runs == 1 and first.observation == again.observation
    play(task, sandbox, program, kind=CodeContests, absolute_tolerance=2.0)
    assert sandbox.runs == 2, "another comparison"


def test_a_success_is_judged_again():
    task, sandbox = MBPP.task(ROW), Counting(gives=2)
    assert [play(task, sandbox, answer("2 * n"))[0].terminated for _ in range(2)] == [True, True]
    assert sandbox.runs == 2


def test_a_time_limit_is_judged_again():
    task, sandbox = MBPP.task(ROW), Counting(failure=TIMEOUT)
    assert all(step.info["timed_out"] for step in play(task, sandbox, answer("3"), answer("3")))
    assert sandbox.runs == 2


def test_without_a_verdict_nothing_is_kept():
    task, sandbox = MBPP.task(ROW), Counting(failure=LOST)
    for _ in range(2):
        with pytest.raises(SandboxLost):
            play(task, sandbox, answer("3"))
    assert sandbox.runs == 2


@pytest.mark.parametrize("options", [{"cpu_seconds": 3.0}, {"memory_mb": 64}, {"relative_tolerance": 0.1}])
def test_other_limits_are_judged_anew(options):
    task, sandbox = MBPP.task(ROW), Counting()
    play(task, sandbox, answer("3"))
    play(task, sandbox, answer("3"), **options)
    assert sandbox.runs == 2


def test_another_tree_of_the_same_task_judges_for_itself():
    sandbox = Counting()
    play(MBPP.task(ROW), sandbox, answer("3"))
    play(MBPP.task(ROW), sandbox, answer("3"))
    assert sandbox.runs == 2


def test_nothing_is_remembered_if_an_option_says_so():
    task, sandbox = MBPP.task(ROW), Counting()
    play(task, sandbox, answer("3"), answer("3"), remember_failures=False)
    assert sandbox.runs == 2


@pytest.mark.parametrize(
    ("error", "lasting"),
    [
        (None, True),
        ("ZeroDivisionError: division by zero", True),
        ("ended early", True),
        ("output too large", True),
        (TIMEOUT, False),
        ("killed (SIGKILL)", False),
        ("malformed answer", False),
        ("folder too large", False),
        (f"RuntimeError: the iterator {OUT_OF_TIME}", False),
        (f"RuntimeError: the iterator {GOES_ON}", True),
        ("MemoryError", False),
    ],
)
def test_which_failures_last(error, lasting):
    assert is_lasting(CodeVerdict((TestResult("a", True), TestResult("b", False, error=error)))) is lasting
    assert is_lasting(CodeVerdict((TestResult("a", False),), failure=error)) is lasting
    assert not is_lasting(CodeVerdict((TestResult("a", True),)))


def test_the_memory_ends_with_the_task():
    known = len(memory._memories)
    task = Task("a", "Go.", "mbpp")
    assert failed_verdicts(task) is failed_verdicts(task)
    assert len(memory._memories) == known + 1
    del task
    gc.collect()
    assert len(memory._memories) <= known


def test_the_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(memory, "MOST_VERDICTS", 1)
    judged, verdicts = [], FailedVerdicts()
    for key in "abab":
        verdicts.recall(key, lambda key=key: judged.append(key) or CodeVerdict((TestResult(key, False),)))
    assert judged == ["a", "b", "b"]
