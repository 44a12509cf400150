"""Environments by name, and data sets as tasks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from leafe_verl import environments
from leafe_verl.core.task import Task
from leafe_verl.environments import environment_class, make, names, register
from leafe_verl.environments.mbpp import MBPP
from leafe_verl.environments.tasks import parse_rows


class Mine:
    def __init__(self, size: int = 3) -> None:
        self.size = size

    @staticmethod
    def task(row: Mapping[str, Any], *, default_key: str | None = None) -> Task:
        if "library" in row:
            raise ModuleNotFoundError("needs a library")
        return Task(str(default_key), row["question"].strip(), "mine")


@pytest.fixture
def mine() -> Iterator[str]:
    register("mine")(Mine)
    yield "mine"
    del environments._registered["mine"]


def test_a_name_leads_to_its_class(mine: str) -> None:
    assert environment_class("mbpp") is MBPP
    assert environment_class(mine) is Mine
    assert environment_class("leafe_verl.environments.mbpp:MBPP") is MBPP
    assert {"mbpp", "mine"} <= set(names())
    assert make(mine, size=4).size == 4  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["mbqq", "", ":", "leafe_verl.environments.mbpp", "mbpp:"])
def test_an_unknown_name_lists_what_there_is_and_the_setting(name: str) -> None:
    with pytest.raises(ValueError, match=r"leafe\.environment\.name to one of .*mbpp.*package\.module:Class"):
        make(name)


@pytest.mark.parametrize("path", ["no_such_module:A", "leafe_verl.environments.mbpp:No", ".:A"])
def test_a_path_that_leads_nowhere_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="cannot import environment.*leafe.environment.name"):
        environment_class(path)


def test_a_path_to_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="expected an environment's class"):
        environment_class("leafe_verl.environments.mbpp:feedback")


def test_an_unknown_option_names_the_setting() -> None:
    with pytest.raises(ValueError, match=r"'cpu'.*leafe\.environment\.options takes .*cpu_seconds"):
        make("mbpp", cpu=3)


def test_a_name_is_given_once(mine: str) -> None:
    with pytest.raises(ValueError, match="'mine' exists already"):
        register(mine)(type("Other", (), {}))
    with pytest.raises(ValueError, match="'mbpp' exists already"):
        register("mbpp")(Mine)
    assert register(mine)(Mine) is Mine


def test_the_registry_imports_no_environment() -> None:
    program = "import sys, leafe_verl.environments; sys.exit('leafe_verl.environments.mbpp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


# --- Rows ---


def row(number: int, **changes: Any) -> Mapping[str, Any]:
    tests = [f"assert f({number}) == {number}"]
    return {"task_id": number, "text": "Return it.", "test_list": tests, "challenge_test_list": []} | changes


def test_rows_become_tasks() -> None:
    rows = [(1, row(7)), (2, {key: value for key, value in row(8).items() if key != "task_id"})]
    tasks = parse_rows(rows, "mbpp", "some.jsonl")
    assert [task.key for task in tasks] == ["7", "2"]
    assert all(isinstance(task, Task) and task.environment == "mbpp" for task in tasks)


def test_everything_wrong_is_said_at_once() -> None:
    rows = [(n, row(n, test_list=[])) for n in range(1, 13)] + [(20, row(1)), (21, ValueError("not JSON"))]
    with pytest.raises(ValueError) as refusal:
        parse_rows(rows, "mbpp", "some.jsonl")
    lines = str(refusal.value).splitlines()
    assert lines[0] == "some.jsonl: 13 rows are not tasks of 'mbpp':"
    assert lines[1] == "  row 1: task 1: test_list is empty; expected at least one assert"
    assert len(lines) == 12 and lines[-1] == "  and 3 more"


def test_a_key_that_comes_twice_and_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="row 2: an earlier row has the key '7'"):
        parse_rows([(1, row(7)), (2, row(7))], "mbpp", "some.jsonl")
    with pytest.raises(ValueError, match="holds no rows"):
        parse_rows([], "mbpp", "some.jsonl")


def test_a_row_that_an_environment_has_not_thought_of_is_named_as_well(mine: str) -> None:
    rows = [{"question": "Why?"}, {"other": 1}, {"question": 3}]
    with pytest.raises(ValueError) as refusal:
        parse_rows(enumerate(rows, start=1), mine, "rows.jsonl", unit="line")
    assert "rows.jsonl: 2 rows are not tasks of 'mine'" in str(refusal.value)
    assert "line 2: cannot be read (KeyError: 'question', in test_registry.py, line" in str(refusal.value)
    assert "line 3: cannot be read (AttributeError: 'int' object has no attribute 'strip'" in str(refusal.value)
    with pytest.raises(ModuleNotFoundError, match="needs a library"):
        parse_rows([(1, {"library": 1})], mine, "rows.jsonl")
