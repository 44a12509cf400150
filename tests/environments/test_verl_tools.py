"""verl's tools and reward functions as an environment: calls, answers, replays, and rows as verl's users have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest

from leafe_verl.core.environment import ReplayDivergence
from leafe_verl.environments import make
from leafe_verl.environments.rows import build_verl_row
from leafe_verl.environments.verl_tools import VerlTools

ASSETS = Path(__file__).with_name("verl_assets.py")
TOOLS = ASSETS.with_suffix(".yaml")
ROW = {
    "data_source": "shop",
    "prompt": [
        {"role": "system", "content": "You keep a till."},
        {"role": "user", "content": "Add 2 and 3, then answer the total."},
    ],
    "reward_model": {"style": "rule", "ground_truth": "5"},
    "extra_info": {"index": 7},
}
TASK = VerlTools.task(ROW, default_key="7")


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def playing(task: Any = TASK, **options: Any) -> VerlTools:
    environment = make("verl_tools", tool_config_path=str(TOOLS), reward_path=str(ASSETS), **options)
    assert isinstance(environment, VerlTools)
    assert environment.reset(task, 0) == ("Add 2 and 3, then answer the total.", {})
    return environment


def test_tools_are_called_and_the_answer_is_scored() -> None:
    environment = playing()
    assert environment.system_prompt == "You keep a till."
    assert environment.calls is not None and list(environment.calls.tools) == ["add", "clock"]
    steps = [environment.step(each) for each in (call("add", price=2), f"First. {call('add', price=3)}", "5")]
    assert [step.observation for step in steps] == [
        "The total is 2.",
        "The total is 5.",
        "The score of this answer is 1.",
    ]
    assert steps[0].info["action"] == 'add({"price": 2})'
    assert (steps[2].terminated, steps[2].reward, steps[2].info["success"]) == (True, 1.0, True)


@pytest.mark.parametrize(
    ("action", "feedback"),
    [
        (
            call("add", price="two"),
            "The arguments['price'] of add do not fit its schema: 'two' is not of type 'integer'.",
        ),
        (call("add"), "The arguments of add do not fit its schema: 'price' is a required property."),
        (call("subtract"), "There is no tool 'subtract'. The tools are: add, clock."),
        (
            '<tool_call>{"name": "add"',
            "A call is not well-formed: expected JSON with the tool's name and its arguments.",
        ),
        (call("add", price=13), "add failed: ValueError: nothing costs 13"),
        ("five", "Answer with a number alone."),
    ],
)
def test_what_cannot_be_executed_is_feedback(action: str, feedback: str) -> None:
    environment = playing()
    step = environment.step(action)
    assert (step.observation, step.info["error"], step.terminated) == (feedback, True, False)
    assert environment.step(call("add", price=1)).observation == "The total is 1."


def test_the_state_of_a_tool_comes_back_by_its_calls() -> None:
    environment = playing()
    environment.step(call("add", price=2))
    snapshot = environment.snapshot()
    environment.step(call("add", price=40))
    assert environment.restore(snapshot) == 1
    assert environment.step(call("add", price=3)).observation == "The total is 5."


def test_a_tool_that_reads_a_clock_is_refused_with_the_reason() -> None:
    environment = playing()
    environment.step(call("clock"))
    with pytest.raises(ReplayDivergence, match="must be deterministic .* it now shows: .*It is . o'clock"):
        environment.restore(environment.snapshot())


def test_a_wrong_answer_ends_the_attempt_with_the_last_that_is_scored() -> None:
    environment = playing(answers=2, reward_kwargs={"bonus": 0.25})
    first, second = environment.step("4"), environment.step("6")
    assert (first.terminated, first.info["failed"], first.reward) == (False, True, 0.0)
    assert (second.terminated, second.info["success"], second.reward) == (True, False, 0.25)


def test_rows_of_verls_parquet_are_read_with_the_arguments_of_their_tools() -> None:
    prompt = numpy.array(ROW["prompt"], dtype=object)
    extra = {"index": 3, "tools_kwargs": {"add": {"create_kwargs": {"discount": 1}}}}
    task = VerlTools.task({**ROW, "prompt": prompt, "extra_info": extra}, default_key="3")
    assert json.dumps(dict(task.data)) and VerlTools.task(build_verl_row(task, "train", 3)) == task
    assert playing(task).step(call("add", price=5)).observation == "The total is 4."


def test_function_tools_and_verls_own_scores_need_no_configuration() -> None:
    row = {**ROW, "data_source": "openai/gsm8k", "reward_model": {"ground_truth": "5"}}
    environment = make("verl_tools", function_tool_path=str(ASSETS.with_name("verl_functions.py")))
    environment.reset(VerlTools.task(row, default_key="1"), 0)
    assert environment.step(call("double", number=4)).observation == "8"
    assert environment.step("#### 5").info["success"]


def test_what_is_no_row_and_no_option_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt is None; expected a list of messages"):
        VerlTools.task({"task_id": 1})
    with pytest.raises(ValueError, match=r"options\.form is 'morse'; expected one of .*hermes.*llama3_json"):
        make("verl_tools", form="morse")
