"""MBPP: rows, prompts, feedback and rewards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from leafe_verl.core.environment import Step
from leafe_verl.core.settings import EnvironmentSettings
from leafe_verl.environments import hidden_tests
from leafe_verl.environments.mbpp import CLOSING, MBPP
from leafe_verl.environments.rows import build_verl_row
from leafe_verl.sandbox import Limits

REPOSITORY = Path(__file__).parents[2]
DATA = REPOSITORY.parent / "shared" / "data" / "mbpp_train.jsonl"
EMBEDDED = [REPOSITORY / "leafe_verl" / "data" / f"embedded_{split}.jsonl" for split in ("train", "dev", "heldout")]

ROW = {
    "task_id": 5,
    "text": "Write a function to double a number.",
    "code": "def double(n):\n    return 2 * n  # the reference",
    "test_list": ["assert double(1) == 2", "assert double(-3) == -6"],
    "test_setup_code": "",
    "challenge_test_list": ["assert double(0) == 0", 'assert double("ab") == "abab"'],
}
TASK = MBPP.task(ROW)
REQUEST = """\
You are an expert Python programmer, and here is your task: Write a function to double a number. \
Your code should pass these tests:

assert double(1) == 2
assert double(-3) == -6

Answer with the complete code in one ```python block and nothing else."""


def fenced(code: str) -> str:
    return f"Here:\n```python\n{code}\n```\nDone."


def play(*codes: str, row: Mapping[str, Any] = ROW, **options: Any) -> list[Step]:
    environment = MBPP(**options)
    environment.reset(MBPP.task(row), seed=0)
    return [environment.step(code) for code in codes]


def observation(code: str, **options: Any) -> str:
    (step,) = play(fenced(code), **options)
    return step.observation


# --- Play ---


def test_the_first_observation_is_mbpps_prompt() -> None:
    observation, info = MBPP().reset(TASK, seed=0)
    assert observation == REQUEST
    assert (info, MBPP().system_prompt, MBPP().horizon) == ({}, "", 4)
    assert MBPP(system_prompt="Be brief.").system_prompt == "Be brief."


def test_the_reference_solution_ends_the_attempt_in_success() -> None:
    (step,) = play(fenced(ROW["code"]))
    info = {"success": True, "error": False, "action": f"{ROW['code']}\n", "choice": "defines_all"}
    info |= {"passed": 4, "total": 4, "timed_out": False}
    assert step == Step("All 4 tests pass.", 1.0, True, False, info)


def test_rewards_add_up_to_the_share_that_the_last_code_passes() -> None:
    half = fenced("def double(n): return 2 * n if n < 1 else ''")  # fails double(1) and double("ab")
    none, most = fenced("def double(n): return n * [0]"), fenced("def double(n): return n + n if n else None")
    steps = play(half, none, most, "")
    assert [step.reward for step in steps] == [0.5, -0.5, 0.75, -0.75]
    assert [step.info["passed"] for step in steps] == [2, 0, 3, 0]
    assert all(step.info["error"] and not step.info["success"] and not step.terminated for step in steps)


def test_the_tolerance_of_floats_is_an_option() -> None:
    row = {**ROW, "test_list": ["assert double(0.15) == 0.3"], "challenge_test_list": []}
    code = fenced("def double(n): return 2 * n + 1e-9")
    (exact,), (near,) = play(code, row=row), play(code, row=row, relative_tolerance=1e-6)
    assert (exact.info["success"], near.info["success"]) == (False, True)
    with pytest.raises(ValueError, match=r"options\.absolute_tolerance is -1; expected at least 0"):
        MBPP(absolute_tolerance=-1)


def test_the_horizon_is_an_option_that_the_caller_enforces() -> None:
    assert MBPP(horizon=2).horizon == 2
    first, second = play("", fenced(ROW["code"]), horizon=1)
    assert not first.truncated and second.terminated


def test_a_failing_test_is_shown_with_what_it_got() -> None:
    assert observation("def double(n): return n ** 2 + 1") == (
        "1 of 2 shown tests passes. This one fails:\nassert double(-3) == -6\nIt returned 10; expected -6.\n" + CLOSING
    )


def test_an_exception_is_shown_with_its_line() -> None:
    code = "def double(n):\n    if n > 0:\n        return 2 * n\n    return n.double"
    assert observation(code) == (
        "1 of 2 shown tests passes. This one fails:\nassert double(-3) == -6\n"
        "line 4, in double: return n.double\nAttributeError: 'int' object has no attribute 'double'\n" + CLOSING
    )


def test_code_that_cannot_be_defined_is_shown_with_its_line() -> None:
    assert observation("def double(n):\n    return 2 *") == (
        "The code fails before any test runs:\nline 2: return 2 *\nSyntaxError: invalid syntax\n" + CLOSING
    )


def test_hidden_tests_are_shown_as_a_count_alone() -> None:
    text = observation("def double(n): return n * 2 if n else None")
    assert text == "All shown tests pass, but 1 of 2 hidden tests fails.\n" + CLOSING
    text = observation("def double(n): return {1: 2, -3: -6}[n]")
    assert text == "All shown tests pass, but 2 of 2 hidden tests fail.\n" + CLOSING


def test_a_program_finds_no_hidden_call_in_the_run_that_is_told() -> None:
    row = {**ROW, "challenge_test_list": ["assert double(1234567) == 2469134"]}
    code = """
import sys
def double(n):
    frame, seen = sys._getframe(), []
    while frame:
        seen.append(str(frame.f_locals))
        frame = frame.f_back
    raise ValueError("the hidden input is " + ("known" if "1234" + "567" in "".join(seen) else "unknown"))
"""
    (step,) = play(fenced(code), row=row)
    assert "the hidden input is unknown" in step.observation and step.info["total"] == 3


def test_hidden_tests_have_what_the_shown_ones_left_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 130.0)
    for begun, wall in ((130.0, 20.0), (120.0, 15.0), (90.0, 5.0)):
        assert hidden_tests.limits_after(begun, Limits(wall_seconds=20.0)) == Limits(wall_seconds=wall)


@pytest.mark.parametrize("code", ["double = 1 / 0", "import os\ndef double(n): os._exit(0)"])
def test_code_that_ends_the_run_of_the_shown_tests_fails_the_hidden_ones_too(code: str) -> None:
    (step,) = play(fenced(code))
    assert (step.info["passed"], step.info["total"]) == (0, 4)


def test_an_endless_loop_is_told_as_such() -> None:
    (step,) = play(fenced("def double(n):\n    while n < 0: pass\n    return 2 * n"), cpu_seconds=1)
    text = step.observation
    assert step.info["timed_out"]
    assert text.startswith("1 of 2 shown tests passes.") and "The program ran into its time limit." in text


def test_the_time_limits_leave_room_and_all_runs_fit_into_a_step() -> None:
    assert Limits().cpu_seconds >= 3 * 2.6, "the slowest reference solution, three times over, on a busy machine"
    assert Limits().wall_seconds > 2 * Limits().cpu_seconds
    runs = 2 + 2 * hidden_tests.LEAST_SHARE
    assert runs * Limits().wall_seconds < EnvironmentSettings().step_timeout


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import os\nos._exit(0)", "The program exited before it returned a result."),
        ("import ctypes\nctypes.string_at(0)", "The program was killed (SIGSEGV)."),
        ("import os\nfor d in range(64):\n try: os.write(d, b'?\\n')\n except OSError: pass", "where only results"),
        ("def double(n): return object()", "no plain value that can be compared: object"),
    ],
)  # fmt: skip
def test_other_endings_are_told_too(code: str, text: str) -> None:
    assert text in observation(code)


@pytest.mark.parametrize("action", ["", "  \n", "```python\n```", "```"])
def test_an_answer_without_code_is_feedback(action: str) -> None:
    (step,) = play(action)
    assert step.reward == 0 and step.info["error"]
    assert step.observation.endswith(CLOSING)


def test_observations_are_bounded_and_can_be_encoded() -> None:
    long = "def double(n):\n    raise ValueError('\\ud800' * 900 + str(list(range(10**5))))"
    for code in (long, "def double(n): return list(range(4000))"):
        for characters in (600, 150):
            text = observation(code, feedback_characters=characters)
            assert len(text) <= characters and text.endswith(CLOSING)
            assert text.encode()


def test_no_path_of_the_host_is_shown() -> None:
    code = "import json\ndef double(n):\n    from json import nothing"
    text = observation(code)
    assert "ImportError" in text and json.__file__ not in text and "/lib" not in text and str(REPOSITORY) not in text


@pytest.mark.parametrize(("option", "value"), [("horizon", 0), ("feedback_characters", 50)])
def test_an_option_out_of_range_is_refused(option: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"leafe\.environment\.options\.{option} is {value}; expected at least"):
        MBPP(**{option: value})  # type: ignore[arg-type]


def test_a_step_without_a_task_is_refused() -> None:
    with pytest.raises(RuntimeError, match="call reset"):
        MBPP().step("")


# --- Rows ---


def test_a_task_holds_the_tests_and_not_the_reference_solution() -> None:
    assert (TASK.key, TASK.instruction, TASK.environment) == ("5", ROW["text"], "mbpp")
    assert set(TASK.data) == {"test_list", "test_setup_code", "challenge_test_list"}
    assert "reference" not in json.dumps(TASK.data)


def test_the_sanitized_form_is_read() -> None:
    row = {
        "task_id": 5,
        "prompt": "Write it.",
        "test_imports": ["import math", "import cmath as c"],
        "test_list": ["assert c.isclose(f(math.pi), 3)"],
    }
    task = MBPP.task(row)
    assert task.instruction == "Write it."
    assert task.data == {
        "test_list": ["assert c.isclose(f(math.pi), 3)"],
        "test_setup_code": "import math\nimport cmath as c",
        "challenge_test_list": [],
    }


class Array:
    """An array as pandas gives it for a list in a parquet file."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def tolist(self) -> list[Any]:
        return self.items


def test_verls_row_and_back() -> None:
    row = build_verl_row(TASK, "train", 3)
    assert row["data_source"] == "mbpp" and row["ability"] == "code" and row["reward_model"]["style"] == "rule"
    assert row["prompt"] == [{"role": "user", "content": REQUEST}]
    assert row["extra_info"] == {"split": "train", "index": 3, "task_id": "5", "text": ROW["text"]}
    assert MBPP.task(row) == TASK
    ground_truth = json.loads(row["reward_model"]["ground_truth"])
    assert MBPP.task(row | {"reward_model": {"ground_truth": ground_truth}, "prompt": Array(row["prompt"])}) == TASK
    texts = {name: json.dumps(row[name]) for name in ("reward_model", "extra_info")}
    assert MBPP.task(row | texts) == TASK
    bare = {key: row[key] for key in ("prompt", "reward_model")}
    assert MBPP.task(bare, default_key="5") == TASK
    assert (
        MBPP.task(bare | {"prompt": [{"role": "user", "content": "Do it."}]}, default_key="5").instruction == "Do it."
    )


def test_arrays_of_tests_are_read() -> None:
    assert MBPP.task(ROW | {"test_list": Array(ROW["test_list"])}) == TASK


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"task_id": None}, "no task_id"),
        ({"text": None}, "task 5: text is None; expected the task in words"),
        ({"text": " "}, "task 5: text is ' '"),
        ({"test_list": None}, "task 5: test_list is None; expected a list of strings"),
        ({"test_list": "assert f(1)"}, "expected a list of strings"),
        ({"test_list": [1]}, r"test_list is \[1\]; expected a list of strings"),
        ({"test_list": []}, "test_list is empty; expected at least one assert"),
        ({"test_list": ["assert double(1 == 2"]}, "task 5: 'assert double.1 == 2': does not parse"),
        ({"challenge_test_list": ["double(1)"]}, "task 5: 'double.1.': expected one assert"),
        ({"test_setup_code": "import"}, "task 5: .*the set-up 'import' does not parse"),
        ({"test_setup_code": 3}, "test_setup_code is 3; expected a string"),
        ({"test_setup_code": None, "test_imports": ["import ("]}, "test_imports is .*, which does not parse"),
        ({"test_setup_code": None, "test_imports": [None]}, "test_imports is .None.; expected a list of strings"),
        ({"reward_model": {"style": "rule"}}, "expected an object with ground_truth"),
        ({"reward_model": [1]}, r"reward_model is \[1\]; expected an object, or its JSON"),
        ({"reward_model": "five"}, "reward_model is 'five', which is not JSON"),
        ({"reward_model": {"ground_truth": "{}"}, "extra_info": "[1]"}, "extra_info is '.1.'; expected an object"),
        ({"reward_model": {"ground_truth": "{"}}, "ground_truth is not JSON"),
        ({"reward_model": {"ground_truth": "[]"}}, "ground_truth is a list; expected an object"),
        ({"reward_model": {"ground_truth": "{}"}}, "test_list is None"),
        (
            {"reward_model": {"ground_truth": {"test_list": ["assert f()"]}}, "extra_info": {"task_id": 5}},
            "task 5: text is None",
        ),
    ],
)
def test_a_row_that_is_no_task_is_refused(changes: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        MBPP.task({**ROW, **changes})


# --- Real data ---


def read_rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def final_steps(rows: list[dict[str, Any]], change: str = "") -> Iterator[tuple[Any, Step]]:
    def step(row: Mapping[str, Any]) -> tuple[Any, Step]:
        return row["task_id"], play(fenced(row["code"] + change.format(name=called_in(row))), row=row)[0]

    with ThreadPoolExecutor(2) as threads:
        yield from threads.map(step, rows)


def called_in(row: Mapping[str, Any]) -> str:
    """The solution's name: what the code defines and the first test calls."""
    names = [line.split("(")[0].split()[1] for line in row["code"].splitlines() if line.startswith("def ")]
    return next(name for name in names if f"{name}(" in row["test_list"][0] or f"{name} (" in row["test_list"][0])


ALTERED = """
_original = {name}
def {name}(*arguments):
    value = _original(*arguments)
    return [value, None]
"""


@pytest.fixture(scope="module")
def mbpp_rows() -> list[dict[str, Any]]:
    """60 of the 474 rows, evenly spaced; all were checked once."""
    if not DATA.is_file():
        pytest.skip(f"no {DATA}: the training half of MBPP is not part of the repository")
    rows = read_rows(DATA)
    assert len(rows) == 474
    return rows[::8]


@pytest.mark.skipif(not DATA.is_file(), reason="the training half of MBPP is not part of the repository")
def test_every_row_of_mbpp_is_a_task() -> None:
    assert len([MBPP.task(row) for row in read_rows(DATA)]) == 474


def test_reference_solutions_of_mbpp_succeed(mbpp_rows: list[dict[str, Any]]) -> None:
    # Two with an unusual test: a set-up that needs the solution, and a value that the test computes.
    unusual = [row for row in read_rows(DATA) if row["task_id"] in (596, 927)]
    assert len(unusual) == 2
    failed = {key: step.observation for key, step in final_steps(mbpp_rows + unusual) if not step.info["success"]}
    assert failed == {}


def test_altered_solutions_of_mbpp_fail_every_test(mbpp_rows: list[dict[str, Any]]) -> None:
    passed = {key: step.info["passed"] for key, step in final_steps(mbpp_rows, ALTERED) if step.info["passed"]}
    assert passed == {}


@pytest.mark.parametrize("path", EMBEDDED, ids=lambda path: path.stem)
def test_embedded_tasks_parse_and_their_reference_solutions_succeed(path: Path) -> None:
    rows = read_rows(path)
    assert len(rows) >= 24 and len({MBPP.task(row).key for row in rows}) == len(rows)
    failed = {key: step.observation for key, step in final_steps(rows) if not step.info["success"]}
    assert failed == {}
