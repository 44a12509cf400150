"""Rows of environments whose answers a reward function scores. They need neither verl nor servers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from leafe_verl.environments.judged_calls import JudgedCalls
from leafe_verl.environments.mcp_tools import McpTools
from leafe_verl.environments.rows import build_verl_row
from leafe_verl.environments.verl_tools import VerlTools

ROW: dict[str, Any] = {
    "task_id": 1,
    "data_source": "sums",
    "prompt": [{"role": "user", "content": "Add."}],
    "reward_model": {"style": "rule", "ground_truth": "5"},
    "extra_info": {"index": 0},
}


@pytest.mark.parametrize("environment", [VerlTools, McpTools])
def test_objects_may_be_json_and_are_checked(environment: type[JudgedCalls]) -> None:
    task = environment.task(ROW)
    texts = {name: json.dumps(ROW[name]) for name in ("reward_model", "extra_info")}
    assert environment.task({**ROW, **texts}) == task == environment.task(build_verl_row(task, "train", 0))
    own = {**build_verl_row(task, "train", 0), "data_source": environment.name}
    del own["reward_model"]
    assert environment.task({**own, "task_id": 1}).data["ground_truth"] is None


@pytest.mark.parametrize("environment", [VerlTools, McpTools])
def test_texts_in_parts_are_joined_and_halves_of_characters_replaced(environment: type[JudgedCalls]) -> None:
    parts = [{"type": "text", "text": "Be kind \ud83d"}, {"type": "text", "text": "always"}]
    task = environment.task(
        {**ROW, "prompt": [{"role": "system", "content": parts}, {"role": "user", "content": "go"}]}
    )
    assert task.data["prompt"][0] == {"role": "system", "content": "Be kind ?\n\nalways"}
    assert task.instruction == "go"


@pytest.mark.parametrize("environment", [VerlTools, McpTools])
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"extra_info": "yes"}, "extra_info is 'yes', which is not JSON; expected an object"),
        ({"extra_info": True}, "extra_info is True; expected an object"),
        ({"reward_model": "5"}, "reward_model is '5'; expected an object"),
        ({"prompt": "hi"}, "prompt is 'hi'; expected a list of messages"),
        ({"prompt": [{"role": "user", "content": [{"type": "image"}]}]}, "content, which is text"),
        ({"prompt": [{"role": "system", "content": 3}]}, "content, which is text"),
        ({"images": [{"bytes": "x"}]}, "images is .*; expected no such column"),
        (
            {"prompt": [*ROW["prompt"], {"role": "assistant", "content": "4"}, *ROW["prompt"]]},
            "prompt has messages of the role assistant; expected system and user alone",
        ),
        ({"prompt": [{}]}, "prompt is .*; expected a list of messages with role and content"),
        ({"prompt": [{"from": "human", "value": "hi"}]}, "expected a list of messages with role and content"),
    ],
)
def test_what_is_no_object_is_refused(environment: type[JudgedCalls], changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        environment.task({**ROW, **changes})
