"""Problems with several right answers: which are recognised, counted and left out."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from leafe_verl.environments.codecontests import CodeContests
from leafe_verl.environments.several_answers import find_several_answers
from leafe_verl.sandbox import ProgramTest
from leafe_verl.task_files import read_tasks


@pytest.mark.parametrize(
    "statement",
    [
        "Output the permutation. If there are multiple solutions, print any of them.",
        "If there are several optimal answers, you may\noutput any.",
        "If there is more than one way to do it, print any one of them.",
        "Print any valid sequence of n integers.",
        "Find any such array, or say that there is none.",
        "You can print the vertices in any order.",
        "Print the indices of the removed edges, in arbitrary order.",
        "Any correct answer will be accepted.",
        "If many answers exist, output an arbitrary one of them.",
        "In case of several possible paths, any is fine.",
    ],
)
def test_what_contests_say_is_recognised(statement: str) -> None:
    found = find_several_answers(f"There are n cities. {statement} The end.", [])
    assert found is not None and found.startswith("its statement says '")


@pytest.mark.parametrize(
    "statement",
    [
        "Print YES or NO. You can print each letter in any case (upper or lower).",
        "The edges are given in any order. Print the length of the shortest path.",
        "In one move you can choose any element and delete it. Print the number of moves.",
        "A string is good if it does not contain any of them. Print the number of good strings.",
        "It is guaranteed that any two cities are connected. Find the answer modulo 998244353.",
        "Vasya has several pairs of socks. Print how many days he can go.",
        "The answer is unique.",
    ],
)
def test_what_tells_of_no_second_answer_is_none(statement: str) -> None:
    assert find_several_answers(statement, []) is None


@pytest.mark.parametrize(
    ("tests", "recognised"),
    [
        ([("1\n", "2"), ("1", "3")], True),
        ([("1\n", "2 3"), ("1\n", "2  3\n")], False),
        ([("1\n", "0.5"), ("1\n", "0.500000001")], False),
        ([("1\n", "YES"), ("1\n", "yes")], False),
        ([("1\n", "2"), ("2\n", "3")], False),
        ([("1\n", "2"), ("1\n", "2"), ("1 \n", "7")], True),
    ],
)
def test_tests_that_contradict_each_other_are_recognised(tests: list[tuple[str, str]], recognised: bool) -> None:
    found = find_several_answers("Add one.", [ProgramTest(*test) for test in tests])
    assert (found == "two of its tests have one input and different outputs") is recognised


def row(name: str, statement: str, generated: tuple[list[str], list[str]] = ([], [])) -> dict[str, Any]:
    tests = {"input": ["1\n"], "output": ["2\n"]}
    inputs, outputs = generated
    return {
        "name": name,
        "description": statement,
        "public_tests": tests,
        "generated_tests": {"input": inputs, "output": outputs},
    }


ROWS = [
    row("one", "Add one."),
    row("any", "If there are several answers, print any of them."),
    row("torn", "Add something.", (["1\n"], ["3\n"])),
]


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps(ROWS))
    return str(path)


def test_they_are_counted_and_kept_by_default(source: str, caplog: pytest.LogCaptureFixture) -> None:
    assert [task.key for task in read_tasks(source, "codecontests")] == ["one", "any", "torn"]
    (said,) = caplog.messages
    assert "2 of 3 tasks have several right answers" in said and "several_answers=leave_out leaves them out" in said
    assert "task any: its statement says 'print any of" in said


def test_they_are_left_out_by_the_setting(source: str, caplog: pytest.LogCaptureFixture) -> None:
    assert [task.key for task in read_tasks(source, "codecontests", "leave_out")] == ["one"]
    assert "2 of 3 tasks have several right answers, of which one is known, and are left out" in caplog.text


def test_a_source_of_none_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps(ROWS[1]) + "\n")
    with pytest.raises(ValueError, match="1 of 1 tasks .* none is left; set leafe.environment.several_answers=keep"):
        read_tasks(str(path), "codecontests", "leave_out")


def test_tasks_with_one_answer_and_other_environments_say_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n")
    with caplog.at_level(logging.INFO):
        assert len(read_tasks(str(path), "codecontests", "leave_out")) == 1
    assert caplog.messages == []


def test_the_embedded_problems_have_one_answer() -> None:
    for name in ("embedded_codecontests_train", "embedded_codecontests_heldout"):
        path = Path(__file__).parents[2] / "leafe_verl" / "data" / f"{name}.jsonl"
        tasks = read_tasks(str(path), "codecontests")
        assert [task.key for task in tasks if CodeContests.several_answers(task)] == []
