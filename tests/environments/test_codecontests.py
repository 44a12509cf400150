"""CodeContests: rows, prompts, feedback, limits and rewards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from leafe_verl.core.environment import Step
from leafe_verl.core.settings import EnvironmentSettings
from leafe_verl.environments import codecontests, codecontests_rows
from leafe_verl.environments.codecontests import (
    BATCH,
    CLOSING,
    CPU_SECONDS,
    CodeContests,
    judge_code,
    tightest_limits,
)
from leafe_verl.environments.codecontests_rows import ANSWER_FORM
from leafe_verl.environments.rows import build_verl_row
from leafe_verl.sandbox import Limits, OutputComparison, ProgramResult, ProgramTest
from leafe_verl.sandbox.programs import NOT_RUN
from leafe_verl.sandbox.protocol import TOO_LONG
from leafe_verl.task_files import read_tasks

DATA = Path(__file__).parents[2] / "leafe_verl" / "data"
ROW = {
    "name": "1000_A. Double",
    "description": "Print twice the number.\n",
    "public_tests": {"input": ["1\n", "-3\n"], "output": ["2\n", "-6\n"]},
    "private_tests": {"input": ["0\n"], "output": ["0\n"]},
    "generated_tests": {"input": ["5\n", "7\n"], "output": ["10\n", "14\n"]},
    "time_limit": {"seconds": 1, "nanos": 500_000_000},
    "memory_limit_bytes": 256_000_000,
    "solutions": {"language": [3], "solution": ["print(2 * int(input()))  # the reference"]},
}
TASK = CodeContests.task(ROW)


def fenced(code: str) -> str:
    return f"Here:\n```python\n{code}\n```\nDone."


def play(*codes: str, row: Mapping[str, Any] = ROW, **options: Any) -> list[Step]:
    environment = CodeContests(**options)
    environment.reset(CodeContests.task(row), seed=0)
    return [environment.step(code) for code in codes]


def observation(code: str, **options: Any) -> str:
    (step,) = play(fenced(code), **options)
    return step.observation


# --- Play ---


def test_the_first_observation_is_the_problem_and_the_form_of_the_answer() -> None:
    observation, info = CodeContests().reset(TASK, seed=0)
    assert observation == f"Print twice the number.\n\n{ANSWER_FORM}"
    assert (info, CodeContests().horizon) == ({}, 4)


def test_a_right_program_ends_the_attempt_in_success() -> None:
    (step,) = play(fenced("print(2 * int(input()))"))
    info = {"success": True, "error": False, "action": "print(2 * int(input()))\n", "choice": "reads_and_writes"}
    info |= {"passed": 5, "total": 5, "timed_out": False}
    assert step == Step("All 5 tests pass.", 1.0, True, False, info)


def test_rewards_add_up_to_the_share_that_the_last_program_passes() -> None:
    some, fewer = fenced("n = int(input())\nprint(2 * abs(n))"), fenced("print(0)")
    steps = play(some, fewer, some, "")
    assert [step.reward for step in steps] == pytest.approx([0.8, -0.6, 0.6, -0.8])
    assert [step.info["passed"] for step in steps] == [4, 1, 4, 0]
    assert all(step.info["error"] and not step.terminated and not step.truncated for step in steps)


def test_the_generated_tests_are_capped_and_the_others_are_not() -> None:
    (step,) = play(fenced("print(2 * int(input()))"), max_generated_tests=1)
    assert step.info["success"] and step.info["total"] == 4
    assert [test.stdin for test in codecontests_rows.build_tests(TASK.data, 1)] == ["1\n", "-3\n", "0\n", "5\n"]
    assert len(codecontests_rows.build_tests(TASK.data)) == 5


def test_a_failing_public_test_is_shown() -> None:
    assert observation("print(2 * abs(int(input())))") == (
        "1 of 2 public tests passed. This one failed:\nInput:\n-3\nOutput:\n6\nExpected output:\n-6\n" + CLOSING
    )


def test_an_exception_is_shown_with_its_line() -> None:
    text = observation("n = int(input())\nprint(1 // 0 if n < 0 else 2 * n)")
    assert "Input:\n-3\nline 2" in text and "ZeroDivisionError" in text


def test_hidden_tests_are_shown_as_a_count_alone() -> None:
    assert observation("n = int(input())\nprint(2 * n if n < 5 else 1)") == (
        "All public tests passed, but 2 of 3 hidden tests failed.\n" + CLOSING
    )
    without_public = {**ROW, "public_tests": {"input": [], "output": []}}
    assert observation("print(0)", row=without_public) == "2 of 3 hidden tests failed.\n" + CLOSING


def test_after_a_test_out_of_time_no_further_ones_are_run() -> None:
    generated = {"input": [f"{n}\n" for n in range(20, 40)], "output": [f"{2 * n}\n" for n in range(20, 40)]}
    slow = "n = int(input())\nwhile n == 0: pass\nprint(2 * n)"
    (step,) = play(fenced(slow), row={**ROW, "generated_tests": generated}, cpu_seconds=1)
    assert (
        step.observation
        == "All public tests passed, but on a hidden test the program ran into its time limit.\n" + CLOSING
    )
    assert (step.info["passed"], step.info["total"], step.info["timed_out"]) == (2, 23, True)


def test_a_step_has_time_for_the_limits_of_a_batch() -> None:
    longest = tightest_limits(CodeContests.task({**ROW, "time_limit": None}).data, Limits(CPU_SECONDS)).wall_seconds
    assert BATCH * longest < EnvironmentSettings().step_timeout


STATED = "Your answer is considered correct if its absolute or relative error doesn't exceed 10 - 6."


@pytest.mark.parametrize(
    ("fields", "tolerance"),
    [
        ({}, {}),
        ({"description": STATED}, {"relative": 1e-6}),
        ({"description": STATED.replace("10 - 6", "10^{-9}")}, {"relative": 1e-9}),
        ({"description": STATED.replace("10 - 6", "10^-4")}, {"relative": 1e-4, "absolute": 1e-4}),
        ({"description": "The relative or absolute error is at most 10^-3."}, {"relative": 1e-3, "absolute": 1e-3}),
        ({"description": "The relative error is at most 10^-3."}, {"relative": 1e-3}),
        ({"description": "The relative error must be small.\n\nInput\n\nOne number x (0.1 <= x)."}, {}),
        ({"description": "Keep the relative error small. All numbers have 0.1 or more."}, {}),
        ({"description": STATED.replace("10 - 6", "1e-6")}, {"relative": 1e-6}),
        ({"description": STATED.replace("10 - 6", "0.0001")}, {"relative": 1e-4, "absolute": 1e-4}),
        ({"description": STATED.replace("10 - 6", "10\N{MINUS SIGN}6")}, {"relative": 1e-6}),
        ({"description": "The relative or absolute error should be below $$$10^{-5}$$$."}, {"relative": 1e-5}),
        ({"description": "The absolute error must be at most 10^-6."}, {}),
        ({"description": "Find the relative error."}, {}),
        ({"description": STATED, "tolerance": {"absolute": 0}}, {"absolute": 0.0}),
        ({"tolerance": {"absolute": 1e-3, "relative": None}}, {"absolute": 1e-3}),
    ],
)
def test_a_tasks_tolerance_is_its_own_or_what_the_problem_states(fields: Any, tolerance: Any) -> None:
    task = CodeContests.task({**ROW, **fields})
    assert task.data["tolerance"] == pytest.approx(tolerance)
    assert CodeContests.task(build_verl_row(task, "train", 0)) == task


def test_numbers_are_near_enough_by_the_task_or_by_the_options() -> None:
    tests = {"input": ["1"], "output": ["100000000.5"]}
    row = {**ROW, "public_tests": tests, "private_tests": EMPTY, "generated_tests": EMPTY}
    code = fenced("print(100000001.25)")

    def solves(row: Mapping[str, Any], **options: Any) -> bool:
        return bool(play(code, row=row, **options)[0].info["success"])

    assert not solves(row)
    assert solves({**row, "description": STATED})
    assert solves(row, relative_tolerance=1e-6) and solves(row, absolute_tolerance=1)
    assert not solves({**row, "tolerance": {"relative": 0}}, relative_tolerance=1e-6)
    with pytest.raises(ValueError, match=r"options\.relative_tolerance is -1; expected at least 0"):
        CodeContests(relative_tolerance=-1)


def test_the_factor_of_time_is_an_option() -> None:
    def seconds(**options: Any) -> float:
        sandbox = Noting()
        environment = CodeContests(sandbox, **options)  # type: ignore[arg-type]
        environment.reset(TASK, seed=0)
        environment.step(fenced("print(1)"))
        return sandbox.limits[0].cpu_seconds

    assert (seconds(), seconds(time_factor=2), seconds(cpu_seconds=1)) == (4.5, 3.0, 1.0)
    with pytest.raises(ValueError, match=r"leafe\.environment\.options\.time_factor is 0; expected at least 0.01"):
        CodeContests(time_factor=0)


class Noting:
    """A sandbox that notes the limits which it is given."""

    def __init__(self) -> None:
        self.limits: list[Limits] = []

    def execute(self, code: str, stdin: str, limits: Limits) -> Future[ProgramResult]:
        self.limits.append(limits)
        future: Future[ProgramResult] = Future()
        future.set_result(ProgramResult("", None))
        return future


def test_a_program_that_all_tests_together_would_keep_too_long_has_run_out_of_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = [0.0]

    class Slow(Noting):
        def execute(self, code: str, stdin: str, limits: Limits) -> Future[ProgramResult]:
            seconds[0] += 7
            return super().execute(code, stdin, limits)

    sandbox = Slow()
    monkeypatch.setattr(codecontests, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    tests = [ProgramTest("", "")] * 30
    verdict = judge_code("x", tests, sandbox, Limits(8, 17), OutputComparison())  # type: ignore[arg-type]
    assert len(sandbox.limits) == 6 and seconds[0] < codecontests.ALL_SECONDS < EnvironmentSettings().step_timeout
    assert [result.error for result in verdict.tests[5:9]] == [None, TOO_LONG, NOT_RUN, NOT_RUN]
    assert verdict.timed_out and "together took too long" in codecontests.feedback(verdict, 5, 800)


@pytest.mark.parametrize("action", ["", "  \n"])
def test_an_answer_without_code_is_feedback(action: str) -> None:
    (step,) = play(action)
    assert step.observation == f"The answer holds no code.\n{CLOSING}" and step.reward == 0 and step.info["error"]


def test_observations_are_bounded_and_can_be_encoded() -> None:
    for code in ("raise ValueError('\\ud800' * 900)", "print('x' * 9000)"):
        for characters in (800, 150):
            text = observation(code, feedback_characters=characters)
            assert len(text) <= characters and text.endswith(CLOSING) and text.encode()


def test_a_problems_limits_hold_where_they_are_tighter() -> None:
    cap = Limits(4.0, memory_bytes=512 * 2**20)
    assert tightest_limits(TASK.data, cap, time_factor=1) == Limits(1.5, 4.0, 256_000_000)
    assert tightest_limits(TASK.data, cap, time_factor=2) == Limits(3.0, 7.0, 256_000_000)
    assert tightest_limits(TASK.data, cap) == Limits(4.0, 9.0, 256_000_000), "three times its own, up to the cap"
    assert tightest_limits(TASK.data, Limits(1.0, memory_bytes=2**27)) == Limits(1.0, 3.0, 2**27)
    free = CodeContests.task({**ROW, "time_limit": None, "memory_limit_bytes": 0}).data
    assert tightest_limits(free, cap, time_factor=0.5) == Limits(4.0, 9.0, 512 * 2**20), "none of its own"
    tight = CodeContests.task({**ROW, "memory_limit_bytes": 1000}).data
    assert tightest_limits(tight, cap).memory_bytes == 64 * 2**20


@pytest.mark.parametrize(("option", "value"), [("horizon", 0), ("feedback_characters", 50), ("max_generated_tests", 0)])
def test_an_option_out_of_range_is_refused(option: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"leafe\.environment\.options\.{option} is {value}; expected at least"):
        CodeContests(**{option: value})  # type: ignore[arg-type]


# --- Rows ---


def test_a_task_holds_the_tests_and_not_the_solutions() -> None:
    assert (TASK.key, TASK.instruction, TASK.environment) == (ROW["name"], "Print twice the number.", "codecontests")
    assert "reference" not in json.dumps(TASK.data)


def test_verls_row_and_back() -> None:
    row = build_verl_row(TASK, "train", 3)
    assert row["data_source"] == "codecontests" and row["prompt"][0]["content"].endswith(ANSWER_FORM)
    assert CodeContests.task(row) == TASK


class Array:
    """An array as pandas gives it for a list in a parquet file."""

    def tolist(self) -> list[str]:
        return ["0\n"]


def test_arrays_and_missing_groups_are_read() -> None:
    row = {**ROW, "private_tests": {"input": Array(), "output": Array()}, "generated_tests": None}
    data = CodeContests.task(row).data
    assert data["private_tests"] == {"input": ["0\n"], "output": ["0\n"]}
    assert data["generated_tests"] == {"input": [], "output": []}


EMPTY: dict[str, list[str]] = {"input": [], "output": []}


# --- The data set on the hub ---


def hub_rows(*rows: Mapping[str, Any]) -> Any:
    """A data set of deepmind/code_contests' own features."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed; verl brings it")
    text, number = datasets.Value("string"), datasets.Value("int64")
    tests = datasets.Sequence({"input": text, "output": text})
    languages = ["UNKNOWN_LANGUAGE", "PYTHON", "CPP", "PYTHON3", "JAVA"]
    solutions = datasets.Sequence({"language": datasets.ClassLabel(names=languages), "solution": text})
    features = {
        **{"name": text, "description": text, "public_tests": tests, "private_tests": tests, "generated_tests": tests},
        **{"source": datasets.ClassLabel(num_classes=7), "difficulty": datasets.ClassLabel(num_classes=29)},
        **{"solutions": solutions, "incorrect_solutions": solutions, "cf_contest_id": number, "cf_index": text},
        **{"cf_points": datasets.Value("float32"), "cf_rating": datasets.Value("int32")},
        **{"cf_tags": datasets.Sequence(text), "is_description_translated": datasets.Value("bool")},
        **{"untranslated_description": text, "time_limit": {"seconds": number, "nanos": number}},
        **{"memory_limit_bytes": number, "input_file": text, "output_file": text},
    }
    whole = [{**HUB_ROW, **row} for row in rows]
    return datasets.Dataset.from_list(whole, features=datasets.Features(features))


HUB_ROW = {
    **ROW,
    **{"source": 2, "difficulty": 7, "incorrect_solutions": {"language": [2], "solution": ["int main() {}"]}},
    **{"cf_contest_id": 1000, "cf_index": "A", "cf_points": 500.0, "cf_rating": 800, "cf_tags": ["math"]},
    **{"is_description_translated": False, "untranslated_description": "", "input_file": "", "output_file": ""},
}


def test_rows_of_the_hubs_form_are_played(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    none: dict[str, list[str]] = {"input": [], "output": []}
    rows = hub_rows(
        {},
        {"source": 1, "time_limit": None, "memory_limit_bytes": 0, "generated_tests": none},
        {"name": "without tests", "public_tests": none, "private_tests": none, "generated_tests": none},
    )
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: rows)
    first, second = read_tasks("hub:deepmind/code_contests/default/train", "codecontests")
    assert first.data == TASK.data and first.key == "1000_A. Double (source 2)"
    assert second.key == "1000_A. Double (source 1)", "names agree between sources"
    assert second.data["time_limit"] is None and second.data["generated_tests"] == none
    assert "1 rows are not tasks" in caplog.text and "row 3: task without tests (source 2): no tests" in caplog.text
    assert CodeContests.task(build_verl_row(first, "train", 0)) == first
    for task in (first, second):
        environment = CodeContests()
        environment.reset(task, seed=0)
        assert environment.step(fenced(ROW["solutions"]["solution"][0])).info["success"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": None}, "no task_id"),
        ({"description": " "}, "description is ' '; expected the problem in words"),
        ({"public_tests": 3}, "public_tests is 3; expected an object"),
        ({"public_tests": {"input": ["1"], "output": []}}, "public_tests has 1 inputs and 0 outputs"),
        ({"public_tests": {"input": [1], "output": ["1"]}}, r"public_tests.input is \[1\]; expected a list of strings"),
        ({"public_tests": EMPTY, "private_tests": EMPTY, "generated_tests": EMPTY}, "no tests; expected at least one"),
        ({"tolerance": 1e-6}, "tolerance is 1e-06; expected an object with the numbers absolute and relative"),
        ({"tolerance": {"relativ": 1}}, "tolerance is .*relativ.*; expected an object"),
        ({"time_limit": 3}, "time_limit is 3; expected an object"),
        ({"memory_limit_bytes": "a"}, "memory_limit_bytes is 'a'; expected a number"),
        ({"memory_limit_bytes": float("inf")}, "memory_limit_bytes is inf; expected a number"),
        ({"tolerance": {"absolute": 10**400}}, "tolerance is .*; expected an object with the numbers"),
    ],
)
def test_a_row_that_is_no_task_is_refused(changes: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        CodeContests.task({**ROW, **changes})


# --- Embedded data ---


@pytest.mark.parametrize(("split", "number"), [("train", 30), ("heldout", 12)])
def test_embedded_problems_parse_and_their_reference_solutions_succeed(split: str, number: int) -> None:
    lines = (DATA / f"embedded_codecontests_{split}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len({CodeContests.task(row).key for row in rows}) == len(rows) == number
    with ThreadPoolExecutor(2) as threads:
        steps = list(threads.map(lambda row: play(fenced(row["solutions"]["solution"][0]), row=row)[0], rows))
    failed = {row["name"]: step.observation for row, step in zip(rows, steps, strict=True) if not step.info["success"]}
    assert failed == {}
    assert all(len(codecontests_rows.build_tests(CodeContests.task(row).data)) >= 6 for row in rows)


def test_the_embedded_sets_are_disjoint() -> None:
    names = [
        {json.loads(line)["name"] for line in (DATA / f"embedded_codecontests_{split}.jsonl").open(encoding="utf-8")}
        for split in ("train", "heldout")
    ]
    assert not names[0] & names[1]
