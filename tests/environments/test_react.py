"""The one parser of answers: a thought, then one action."""

from __future__ import annotations

import re

import pytest

from leafe_verl.environments import make, react

CLICK = re.compile(r"\bclick\[[^\[\]\n]+\]")


@pytest.mark.parametrize(
    ("answer", "action"),
    [
        ("Thought: hm.\nAction: open door to kitchen", "open door to kitchen"),
        ("action:look around\nObservation: a room\nAction: go to kitchen", "look around"),
        ("Action: look around\nA room with a door.\nAction: go to kitchen", "look around"),
        ("Action: look\n\nAction: go to kitchen", "go to kitchen"),
        ("**Action:** `go to  kitchen`", "go to kitchen"),
        ("> Action: go\u200b \x07 on", "go on"),
        ("I should take the action: go", None),
        ("Action:\n\nlook around", "look around"),
        ("Action: **", None),
        ("Action 1: look", "look"),
        ("Thought 1: hm.\nAction 1: look\nObservation 1: a room\nThought 2: hm.\nAction 2: go", "look"),
        ("Action 12 : look", "look"),
        ("Action #2: look", "look"),
        ("Action(3): look", "look"),
        ("Action [1]: look", "look"),
        ("Action_1: look", "look"),
        ("Action 1.2: look", "look"),
        ("2. Action: look", "look"),
        ("- **Action**: look", "look"),
        ("Action：look", "look"),
        ("Action 1： look", "look"),
        ("Action\u00a0:\u00a0look", "look"),
        ("Action:\u3000look", "look"),
        ("**Action 1:** look", "look"),
        ("**Action 1**: look", "look"),
        ("**Action: look**", "look"),
        ("__Action:__ look", "look"),
        ("*Action:* *look*", "look"),
        ("`Action: look`", "look"),
        ("### Action 1: look", "look"),
        ("### Action\nlook", "look"),
        ("**Action:**\n\n`look`", "look"),
        ("Action:\n```\nlook\n```", "look"),
        ("Action:\r\nlook\r\n", "look"),
        ("ACTION: look", "look"),
        ("aCtIoN: “look”", "look"),
        ("Action: look\r\nObservation: a room", "look"),
        ("Action: look\nAction:", "look"),
        ("Action:\nObservation: a room\nlook", None),
        ("Action:\nThought 2: look", None),
        ("Action:: look", "look"),
        ("Action∶ look", "look"),
        ("Action꞉ look", "look"),
        ("Action: [look]", "look"),
        ("Action: <go to desk 1>", "go to desk 1"),
        ("Action: `[look]`", "look"),
        ("Action: move[3]", "move[3]"),
        ("Action: [a] or [b]", "[a] or [b]"),
        ("Thought: I see a door. Action: look", "look"),
        ("Thought 1: a door. **Action 1:** look\nObservation 1: a room", "look"),
        ("Thought: the best action: none, I think.\nAction: look", "look"),
        ("Thought: the next action: look", None),
        ("Observation: Action: look", "look"),
        ("<action>look</action>", "look"),
        ("<think>hm</think>\n<action> go to desk 1 </action> Done.", "go to desk 1"),
        ("I see.\n<Action>\nlook\n</Action>", "look"),
        ("<action>look", "look"),
        ("Action Input: look", None),
        ("Actions: look, go", None),
        ("Reaction: look", None),
        ("My next\nactions are many", None),
    ],
)
def test_free_words_stand_on_their_line(answer: str, action: str | None) -> None:
    assert react.extract_action(answer) == action


@pytest.mark.parametrize(
    ("answer", "action"),
    [
        ("Thought: not click[a].\nAction: I do click[b], then click[c]", "click[b]"),
        ("Action: click[a]\nObservation: ...\nAction: click[b]", "click[a]"),
        ("Action: click[a]\nAction: click[b]", "click[b]"),
        ("click[a] or rather click[b]", "click[b]"),
        ("my action: click[a]", "click[a]"),
        ("Action:\nclick[a]", "click[a]"),
        ("Action 2: click[a]", "click[a]"),
        ("Thought: not click[a]\n**Action 1：**\nclick[b]\nObservation 1: a page\nAction 2: click[c]", "click[b]"),
        ("Thought: click[a]\nAction:", "click[a]"),
        ("Thought: click[a]\nAction: buy", None),
        ("click[]", None),
        ("Action: click[\ud800]", "click[?]"),
        ("click[" + "x" * 1000 + "]", "click[" + "x" * 1000 + "]"),
    ],
)
def test_actions_of_a_form_are_found_without_the_line_too(answer: str, action: str | None) -> None:
    assert react.extract_action(answer, CLICK) == action


@pytest.mark.parametrize(
    ("answer", "command"),
    [("Action: go to desk 1.", "go to desk 1"), ("Action：look。", "look"), ("Action: ...", None), ("look.", None)],
)
def test_a_command_has_no_full_stop(answer: str, command: str | None) -> None:
    assert react.extract_command(answer) == command


@pytest.mark.parametrize(
    "text",
    [
        "action:" * 20_000,
        "Action: \n" * 20_000,
        "Action 1" * 20_000,
        "_" * 100_000,
        "Action" + "_" * 100_000,
        "1." * 50_000,
        "Action:" + "\n" * 100_000,
        ("Action:" + "\n" * 9) * 10_000,
        "*" * 100_000,
        "> " * 50_000 + "action",
        "<action>" * 50_000,
        "Thought: " + "Action " * 50_000,
        "Thought: " + "Action:" * 50_000,
    ],
)
def test_hostile_answers_are_read_at_once(text: str) -> None:
    react.extract_action(text)
    react.extract_action(text, CLICK)


@pytest.mark.parametrize(
    ("name", "answer", "action"),
    [
        ("sokoban", "Thought: up?\nAction: Left", "left"),
        ("sokoban", "Action: jump", None),
        ("webshop", "Thought: hm.\nAction: search[Red Tea]", "search[red tea]"),
        ("webshop", "Action: buy", None),
    ],
)
def test_info_tells_the_executed_action_or_an_error(name: str, answer: str, action: str | None) -> None:
    if name == "webshop":
        pytest.importorskip("rank_bm25")
    environment = make(name)
    task = type(environment).task({"seed": 0} if name == "sokoban" else {"goal": 0})  # type: ignore[attr-defined]
    environment.reset(task, 0)
    step = environment.step(answer)
    assert step.info.get("action") == action
    assert step.info["error"] or action


def test_an_environment_of_gymnasiums_form_gets_the_action_alone() -> None:
    game = {"entry_point": "environments.gymnasium_games:Doors"}
    plain, asked = make("gymnasium", **game), make("gymnasium", **game, react=True, system_prompt="Pass.")
    assert plain.system_prompt == "" and asked.system_prompt.startswith("Pass.\nEach turn, write one thought")
    task = type(asked).task({"task_id": "a", "seed": 1})  # type: ignore[attr-defined]
    for environment in (plain, asked):
        environment.reset(task, 0)
    steps = [environment.step("Thought: hm.\nAction: left") for environment in (plain, asked)]
    assert [step.info["error"] for step in steps] == [True, False] and steps[1].info["action"] == "left"
    step = asked.step("I go left.")
    assert step.observation == react.NO_ACTION and step.info["error"]
    token = asked.snapshot()
    after = asked.step("Action: right")
    asked.restore(token)
    assert asked.step("Action: right") == after
