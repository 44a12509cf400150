"""Forgeries, in every tier that works here: none is judged as right. A naive judge is fooled by most."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from leafe_verl.sandbox.judge import CodeVerdict, judge
from leafe_verl.sandbox.pool import SandboxPool
from leafe_verl.sandbox.programs import ProgramTest, judge_program
from leafe_verl.sandbox.protocol import Limits
from leafe_verl.sandbox.tier_choice import available_tiers
from sandbox.forgeries import FORGERIES, Forgery, Secret
from sandbox.naive_judge import Trust, naive_verdict

LIMITS = Limits(cpu_seconds=1, wall_seconds=2.5)
AT_A_TIME = 8
WORKERS = 4
BY_NAME = {forgery.name: forgery for forgery in FORGERIES}
SECRETS = Secret.draw()
QUESTIONS = Secret.draw_questions()
ASSERTS = tuple(secret.source for secret in SECRETS)
ALL_ASSERTS = (*ASSERTS, *(question.source for question in QUESTIONS))
PROGRAM_TESTS = tuple(ProgramTest(f"{secret.argument}\n", f"{secret.wanted}\n") for secret in SECRETS)
RIGHT = f"def f(x): return { ({each.argument: each.wanted for each in (*SECRETS, *QUESTIONS)})!r}[x]"
WRONG = "def f(x): return None"


@dataclass(frozen=True)
class Judged:
    by_asserts: CodeVerdict
    as_program: CodeVerdict

    @property
    def passed(self) -> tuple[int, int]:
        return self.by_asserts.passed, self.as_program.passed


@pytest.fixture(scope="module", params=available_tiers(), ids=str)
def judged(request: pytest.FixtureRequest) -> dict[str, Judged]:
    """Outcomes of all forgeries and then of a right and a wrong answer, all through one pool."""
    with SandboxPool(WORKERS, request.param.number) as pool, ThreadPoolExecutor(AT_A_TIME) as threads:

        def judge_both_ways(code: str) -> Judged:
            program = f"{code}\nprint(f(int(input())))\n"
            return Judged(
                judge(code, ALL_ASSERTS, "", pool, LIMITS), judge_program(program, PROGRAM_TESTS, pool, LIMITS)
            )

        judged = dict(zip(BY_NAME, threads.map(judge_both_ways, (each.code for each in FORGERIES)), strict=True))
        return judged | {"right": judge_both_ways(RIGHT), "wrong": judge_both_ways(WRONG)}


@pytest.mark.parametrize("name", BY_NAME)
def test_no_forgery_passes_a_single_test(judged: dict[str, Judged], name: str) -> None:
    assert judged[name].passed == (0, 0), judged[name]


def test_they_do_not_change_the_verdicts_after_them(judged: dict[str, Judged]) -> None:
    assert judged["right"].passed == (len(ALL_ASSERTS), len(SECRETS)), judged["right"]
    assert judged["wrong"].passed == (0, 0), judged["wrong"]


def test_a_naive_judge_tells_right_from_wrong() -> None:
    assert all(naive_verdict(RIGHT, ASSERTS, trust) for trust in Trust)
    assert not any(naive_verdict(WRONG, ASSERTS, trust) for trust in Trust)


@pytest.fixture(scope="module")
def fooled() -> dict[str, bool]:
    """Whether a naive judge believes each forgery."""
    with ThreadPoolExecutor(AT_A_TIME) as threads:
        believed = threads.map(_is_believed, FORGERIES)
        return dict(zip(BY_NAME, believed, strict=True))


def _is_believed(forgery: Forgery) -> bool:
    return any(naive_verdict(forgery.code, ASSERTS, trust) for trust in Trust)


@pytest.mark.parametrize("name", [forgery.name for forgery in FORGERIES if forgery.fools_naive])
def test_the_forgery_works_on_a_naive_judge(fooled: dict[str, bool], name: str) -> None:
    """Or its failing elsewhere would show nothing."""
    assert fooled[name]


def test_most_forgeries_work_on_a_naive_judge(fooled: dict[str, bool]) -> None:
    assert sum(fooled.values()) >= len(FORGERIES) / 3, fooled
