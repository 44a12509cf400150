"""CodeContests' rows: the data set's own form and verl's parquet form, to and from a Task."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from leafe_verl.core.task import Task
from leafe_verl.environments.rows import is_amount, parse_ground_truth, read_fields, read_strings, task_key
from leafe_verl.environments.several_answers import find_several_answers
from leafe_verl.sandbox import OutputComparison, ProgramTest

NAME = "codecontests"
GROUPS = ("public_tests", "private_tests", "generated_tests")
"""Fields of a row that hold tests, in the order of the verdict's tests."""
ANSWER_FORM = (
    "Write a Python program that reads from standard input and writes to standard output. "
    "Answer with the complete program in one ```python block and nothing else."
)
NANOS = 1e9


def build_request(task: Task) -> str:
    """Return what the agent is asked: the problem's own words, and the form of the answer."""
    return f"{task.instruction}\n\n{ANSWER_FORM}"


def parse_task(row: Mapping[str, Any], default_key: str | None) -> Task:
    """See `CodeContests.task`."""
    fields = read_fields(row)
    key = task_key(fields, _problem_name(fields) or default_key)
    text = fields.get("description") if fields.get("text") is None else fields["text"]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"task {key}: description is {text!r:.80}; expected the problem in words")
    try:
        return Task(key, text.strip(), NAME, check_data(fields))
    except ValueError as error:
        raise ValueError(f"task {key}: {error}") from None


def check_data(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task's data: the tests of each of GROUPS, time_limit and memory_limit_bytes, without solutions.

    Raises ValueError that says what came and what was expected.
    """
    data: dict[str, Any] = {group: _inputs_and_outputs(group, fields.get(group)) for group in GROUPS}
    if not any(data[group]["input"] for group in GROUPS):
        raise ValueError(f"no tests; expected at least one in {', '.join(GROUPS)}")
    return {**data, **_limits(fields), "tolerance": _tolerance(fields)}


def parse_data(ground_truth: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked data of a task from verl's ground truth. Raises ValueError as `check_data` does."""
    return check_data(parse_ground_truth(ground_truth))


def build_tests(data: Mapping[str, Any], max_generated: int | None = None) -> list[ProgramTest]:
    """Return the tests in the order of GROUPS, with the first `max_generated` of the generated ones (None: all)."""
    tests = []
    for group in GROUPS:
        pairs = zip(data[group]["input"], data[group]["output"], strict=True)
        tests += list(pairs)[: max_generated if group == "generated_tests" else None]
    return [ProgramTest(stdin, expected) for stdin, expected in tests]


def several_answers(task: Task) -> str | None:
    """See `CodeContests.several_answers`."""
    return find_several_answers(task.instruction, build_tests(task.data))


def time_limit_seconds(data: Mapping[str, Any]) -> float | None:
    """Return the problem's time limit for one test, in seconds; None if it states none."""
    limit = data["time_limit"]
    return None if limit is None else limit["seconds"] + limit["nanos"] / NANOS


def _problem_name(fields: Mapping[str, Any]) -> str | None:
    """Return the problem's name with its source: names are unique only within one of the data set's sources."""
    name, source = fields.get("name"), fields.get("source")
    return name if name is None or source is None else f"{name} (source {source})"


def _inputs_and_outputs(group: str, tests: Any) -> dict[str, list[str]]:
    if tests is None:
        return {"input": [], "output": []}
    if not isinstance(tests, Mapping):
        raise ValueError(f"{group} is {tests!r:.80}; expected an object with the lists input and output")
    pairs = {name: read_strings(f"{group}.{name}", tests.get(name)) for name in ("input", "output")}
    if len(pairs["input"]) != len(pairs["output"]):
        raise ValueError(
            f"{group} has {len(pairs['input'])} inputs and {len(pairs['output'])} outputs; expected as many of each"
        )
    return pairs


def _limits(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the problem's limits. In the data set, zero and null both mean that a problem states no limit."""
    time, memory = fields.get("time_limit"), fields.get("memory_limit_bytes") or 0
    if time is not None:
        if not isinstance(time, Mapping) or not all(is_amount(time.get(part) or 0) for part in ("seconds", "nanos")):
            raise ValueError(f"time_limit is {time!r:.80}; expected an object with the numbers seconds and nanos")
        time = {part: time.get(part) or 0 for part in ("seconds", "nanos")}
    if not is_amount(memory):
        raise ValueError(f"memory_limit_bytes is {memory!r:.80}; expected a number of at least 0")
    return {"time_limit": time if time and any(time.values()) else None, "memory_limit_bytes": int(memory)}


def _tolerance(fields: Mapping[str, Any]) -> dict[str, float]:
    """Return how far a number may be from the expected one, as far as the problem says it.

    A row's own field `tolerance` counts before what the statement allows, which is never narrower than the settings.
    """
    stated = fields.get("tolerance")
    if stated is None:
        return _stated_tolerance(str(fields.get("description") or fields.get("text") or ""))
    if not isinstance(stated, Mapping) or not all(
        key in ("absolute", "relative") and (value is None or is_amount(value)) for key, value in stated.items()
    ):
        raise ValueError(
            f"tolerance is {stated!r:.80}; expected an object with the numbers absolute and relative, or one of them"
        )
    return {key: float(value) for key, value in stated.items() if value is not None}


_RELATIVE_ERROR = re.compile(
    r"(\babsolute\b[^.]{0,20}\bor\b[^.]{0,20})?\brelative\b([^.]{0,40})\berror\b(.{0,120})", re.DOTALL | re.IGNORECASE
)
"""What may stand before it, behind it, and the text in which its size is named."""
_SENTENCE_END = re.compile(r"\.(?=\s|$)|\n\s*\n")
_SMALL_NUMBER = re.compile(
    r"(?<![\w.])(?:10\s*(?:\^|\*\*)?\s*[{(]?\s*[-\u2212\u2013]\s*|1(?:\.0*)?e-)(\d{1,2})\b|(?<![\w.])0\.(0*1)\b",
    re.IGNORECASE,
)
"""10^{-6} as statements write it: `10 - 6`, `10^-6`, `1e-6`, `0.000001`."""


def _stated_tolerance(statement: str) -> dict[str, float]:
    """Return the error that a statement allows; nothing where it does not say so with a number in one sentence."""
    for before, behind, rest in _RELATIVE_ERROR.findall(statement):
        if found := _SMALL_NUMBER.search(_SENTENCE_END.split(rest, 1)[0]):
            error = 10.0 ** -int(found[1] or len(found[2]))
            is_either = before or re.match(r"\s*(?:error\s*)?or\b.*\babsolute\b", behind, re.IGNORECASE)
            is_wider = is_either and error > OutputComparison.absolute
            return {"relative": error, **({"absolute": error} if is_wider else {})}
    return {}
