"""MBPP's rows: its own form, its sanitized form, both forms of MBPP+ and verl's parquet form, to and from a Task."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from leafe_verl.core.task import Task
from leafe_verl.environments.mbpp_plus import PlusTests
from leafe_verl.environments.mbpp_plus_rows import (
    is_evalplus_row,
    is_hub_row,
    read_evalplus_tests,
    read_evalplus_words,
    read_hub_tests,
)
from leafe_verl.environments.rows import (
    parse_ground_truth,
    read_ground_truth,
    read_object,
    read_source,
    read_strings,
    task_key,
    to_plain,
)
from leafe_verl.sandbox.soundness import refuse_unsound

NAME = "mbpp"
INSTRUCTION = "You are an expert Python programmer, and here is your task: {text} Your code should pass these tests:"
ANSWER_FORM = "Answer with the complete code in one ```python block and nothing else."
_INSTRUCTION_PATTERN = re.compile(r"here is your task: (.*?) Your code should pass these tests:", re.DOTALL)


def build_request(task: Task) -> str:
    """Return what the agent is asked: MBPP's own prompt with the visible tests, and the form of the answer."""
    tests = "\n".join(task.data["test_list"])
    return f"{INSTRUCTION.format(text=task.instruction)}\n\n{tests}\n\n{ANSWER_FORM}"


def parse_task(row: Mapping[str, Any], default_key: str | None) -> Task:
    """See `MBPP.task`."""
    key = None if "reward_model" in row else task_key(row, default_key)
    try:
        fields = _verl_fields(row) if "reward_model" in row else _own_fields(row)
        key = task_key({"task_id": fields.pop("task_id")}, default_key)
        return _checked_task(key, **fields)
    except ValueError as error:
        raise ValueError(f"task {key}: {error}" if key else str(error)) from None


def parse_tests(ground_truth: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked test_list, challenge_test_list and test_setup_code of verl's ground truth, and MBPP+'s `plus`.

    Raises ValueError that says what came and what was expected.
    """
    return _checked_tests(**_test_fields(parse_ground_truth(ground_truth)))


def _own_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    if is_evalplus_row(row):
        text, asserts = read_evalplus_words(row)
        own = {"test_list": asserts, "plus": read_evalplus_tests(row)}
        return {"task_id": row.get("task_id"), "text": text, **_test_fields(own)}
    return {**_mbpp_fields(row), "plus": read_hub_tests(row) if is_hub_row(row) else None}


def _mbpp_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    text = row.get("text") if row.get("text") is not None else row.get("prompt")
    return {"task_id": row.get("task_id"), "text": text, **_test_fields(row)}


def _verl_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    data, extra = read_ground_truth(row), read_object(row, "extra_info")
    text = extra.get("text")
    if text is None:
        text = _text_from_prompt(to_plain(row.get("prompt")))
    return {"task_id": extra.get("task_id"), "text": text, **_checked_tests(**_test_fields(data))}


def _text_from_prompt(messages: Any) -> str | None:
    """Return the task's words from the user's last message, which is MBPP's own prompt or free text.

    None if there is no such message.
    """
    if not isinstance(messages, list):
        return None
    contents = [m.get("content") for m in messages if isinstance(m, Mapping) and m.get("role") == "user"]
    if not contents or not isinstance(contents[-1], str):
        return None
    found = _INSTRUCTION_PATTERN.search(contents[-1])
    return found.group(1) if found else contents[-1]


def _test_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the test fields of a row. The sanitized form has a list `test_imports` and no challenge tests."""
    setup = row.get("test_setup_code")
    if setup is None:
        setup = read_source("test_imports", row.get("test_imports"))
    challenge = row.get("challenge_test_list")
    return {
        "test_list": row.get("test_list"),
        "test_setup_code": setup,
        "challenge_test_list": [] if challenge is None else challenge,
        "plus": row.get("plus"),
    }


def _checked_task(key: str, text: Any, **tests: Any) -> Task:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"text is {text!r:.80}; expected the task in words (text, or prompt in the sanitized form)")
    return Task(key, text.strip(), NAME, _checked_tests(**tests))


def _checked_tests(test_list: Any, test_setup_code: Any, challenge_test_list: Any, plus: Any = None) -> dict[str, Any]:
    if not isinstance(test_setup_code, str):
        raise ValueError(f"test_setup_code is {test_setup_code!r:.80}; expected a string")
    tests = {
        "test_list": read_strings("test_list", test_list),
        "test_setup_code": test_setup_code,
        "challenge_test_list": read_strings("challenge_test_list", challenge_test_list),
    }
    if not tests["test_list"]:
        raise ValueError("test_list is empty; expected at least one assert")
    for test in (*tests["test_list"], *tests["challenge_test_list"]):
        refuse_unsound(test, test_setup_code)
    if plus is None:
        return tests
    checked = plus if isinstance(plus, PlusTests) else PlusTests.from_mapping(plus)
    return {**tests, "plus": checked.to_mapping()}
