"""What each registered environment plays in the contract suite. A new environment adds one scenario here."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from environments.example import Guess
from leafe_verl.core.environment import Environment, ReplayEnvironment, Step
from leafe_verl.core.task import Task
from leafe_verl.environments import alfworld, environment_class, make, scienceworld


@dataclass(frozen=True)
class Scenario:
    """Tasks and lists of actions; every list is played on every task."""

    new: Callable[[], Environment]
    """Makes an instance. Must be at the top level of its module, so that a fresh interpreter finds it."""
    tasks: tuple[Task, ...]
    plays: tuple[tuple[str, ...], ...]
    """Good, bad, nonsense and empty actions; none ends the attempt before its list does."""
    solution: tuple[str, ...]
    """Solves the first task with its last action."""
    random_action: Callable[[random.Random, str], str] | None = None
    """Draws an action for the observation before it. None: any of `plays`."""
    episodes: int = 50
    """Number of random episodes; smaller if a reset takes most of a second. LEAFE_TEST_EPISODES=50 overrides it."""


class Counter(ReplayEnvironment):
    """Count to `goal`: + and - move, anything else is an error. The smallest environment that replays."""

    horizon = 9

    def start(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        self.goal, self.count = task.data["goal"], seed % 2
        return f"{self.count} of {self.goal}", {}

    def advance(self, action: str) -> Step:
        moves = {"+": 1, "-": -1}
        if action not in moves:
            return Step(f"{action!r} is neither + nor -", 0.0, False, False, {"success": False, "error": True})
        self.count += moves[action]
        solved = self.count == self.goal
        return Step(f"{self.count} of {self.goal}", float(solved), solved, False, {"success": solved, "error": False})


def _counter() -> Scenario:
    tasks = tuple(Task(f"count-{goal}", "Count.", "counter", {"goal": goal}) for goal in (4, 7))
    plays = (("+", "-", "+"), ("count!", "", "+", "-"), ())
    return Scenario(Counter, tasks, plays, ("+", "", "+", "+", "+"))


def _mbpp() -> Scenario:
    rows = [
        {
            "task_id": 1,
            "text": "Write a function to return the letters of a word, each once.",
            "test_list": ["assert letters('aba') == {'a', 'b'}", "assert letters('hello') == set('hello')"],
            "challenge_test_list": ["assert letters('') == set()"],
        },
        {
            "task_id": 2,
            "text": "Write a function to return the smallest of three numbers.",
            "test_list": ["assert least(3, 1, 2) == 1", "assert abs(least(0.5, 1, 2) - 0.5) < 1e-9"],
        },
    ]
    # The order of a set of texts, and an address: both differ between processes unless something is done about it.
    hashed = (
        "```python\ndef letters(word): return list(set(word + 'xyz'))\ndef least(*a): return list(map(str, {*a}))\n```"
    )
    address = "```python\ndef letters(word): raise ValueError(object())\nleast = letters\n```"
    half = "```python\ndef letters(word): return {'a', 'b'}\ndef least(*a): return min(a) // 1\n```"
    solved = "```python\ndef letters(word): return set(word)\n```"
    plays = ((hashed, half, address), ("I do not know.", "", half), (half, "```python\ndef letters(:", half), ())
    tasks = tuple(map(environment_class("mbpp").task, rows))
    return Scenario(_new_mbpp, tasks, plays, (half, "", solved))


def _new_mbpp() -> Environment:
    return make("mbpp", cpu_seconds=1, remember_failures=False)  # the scenarios measure and shake the sandbox


def _codecontests() -> Scenario:
    rows = [
        {
            "name": "double",
            "description": "Print twice the given number.",
            "public_tests": {"input": ["2\n", "-1\n"], "output": ["4\n", "-2\n"]},
            "private_tests": {"input": ["0\n"], "output": ["0\n"]},
            "time_limit": {"seconds": 1, "nanos": 0},
        },
        {
            "name": "letters",
            "description": "Print the different letters of a word in the alphabet's order.",
            "public_tests": {"input": ["hello\n"], "output": ["e h l o\n"]},
            "generated_tests": {"input": ["zebra\n"], "output": ["a b e r z\n"]},
        },
    ]
    # The order of a set of texts, and an address: both differ between processes unless something is done about it.
    hashed = "```python\nprint(*set(input() + 'xyz'))\n```"
    address = "```python\nraise ValueError(object())\n```"
    half = "```python\nword = input()\nprint(2 * int(word) if word.isdigit() else 'e h l o')\n```"
    plays = ((hashed, half, address), ("I do not know.", "", half), (half, "```python\nprint(", half), ())
    solved = "```python\nprint(2 * int(input()))\n```"
    tasks = tuple(map(environment_class("codecontests").task, rows))
    return Scenario(partial(make, "codecontests", remember_failures=False), tasks, plays, (half, "", solved))


def _sokoban() -> Scenario:
    rows = [{"seed": 0}, {"seed": 1}, {"seed": 2, "dim_room": 7, "num_boxes": 2}]
    plays = (
        ("Action: left", "Thought: not up.\nAction: down", "right", "up", "Action: jump", "left"),
        ("", "Action: fly", "down", "down", "down", "I go up, then right"),
        (),
    )
    solution = ["down", "left", "left", "left", "up", "right", "right", "down", "right", "up", "up"]
    tasks = tuple(map(environment_class("sokoban").task, rows))
    return Scenario(partial(make, "sokoban"), tasks, plays, tuple(solution), _random_move)


def _random_move(randomness: random.Random, observation: str) -> str:
    return f"Action: {randomness.choice(('up', 'down', 'left', 'right', 'wait'))}"


def _webshop() -> Scenario:
    pytest.importorskip("rank_bm25", reason="needs pip install leafe-verl[webshop]")
    pytest.importorskip("rapidfuzz", reason="needs pip install leafe-verl[webshop]")
    shop = make("webshop")
    goals = shop.catalogue.goals  # type: ignore[attr-defined]
    asin, (color, capacity) = goals[0].asin, goals[0].options
    plays = (
        ("search[coffee grinder]", "click[Next >]", "click[< prev]", "click[no such thing]", "click[Back to Search]"),
        ("search[zzz]", "", "buy it", "Thought: hm.\nAction: search[phone case]", "click[buy now]"),
        (f"search[{asin[:4]} low noise grinder]", "click[description]", "Action: click[back to search]"),
        (),
    )
    search = f"search[{goals[0].instruction}]"
    options = (f"click[{color}]", f"click[{capacity}]")
    solution = (search, f"click[{asin}]", "click[features]", "click[< Prev]", *options, "Action: click[Buy Now]")
    tasks = tuple(environment_class("webshop").task({"goal": goal}) for goal in range(3))
    return Scenario(partial(make, "webshop"), tasks, plays, solution, _random_click)


def _random_click(randomness: random.Random, observation: str) -> str:
    parts = observation.split(" [SEP] ")
    if randomness.random() < 0.2 or parts[-1] == "Search":
        return f"search[{' '.join(randomness.sample(observation.split(), 2))}]"
    return f"click[{randomness.choice(parts)}]"


def _workspace() -> Scenario:
    rows = [workspace_row("a"), {**workspace_row("b"), "fail_to_pass": ["assert letters('ab') == {'a', 'b', 'c'}"]}]
    plays = (
        # The order of a set of texts, and an address: both differ between processes unless something is done about it.
        ("Action: read calc/core.py", edit("calc/core.py 6", "    return list({*word, 'x', object})"), "Action: test"),
        ("I do not know.", "", "Action: search return", "Action: read nothing.py", "Action: test"),
        (edit("calc/new.py", "x = 1"), edit("calc/core.py 2", "    return 2 *"), edit("docs 1", "Other."), "test"),
        (),
    )
    repaired = edit("calc/core.py 2-2", "    return x + x")
    solution = ("Action: test", "Action: read calc/core.py 1-2", repaired, "Action: test")
    tasks = tuple(map(environment_class("workspace").task, rows))
    new = partial(make, "workspace", remember_failures=False)  # the scenarios measure and shake the sandbox
    return Scenario(new, tasks, plays, solution, _random_work)


def workspace_row(key: str) -> dict[str, Any]:
    """Return the row of a small repository, in which one function is wrong."""
    core = "def double(x):\n    return x + x + 1\n\n\ndef letters(word):\n    return set(word)\n"
    test = "from calc.core import double, letters\n\n\ndef test_double():\n    assert double(2) == 4\n\n\n"
    test += "def test_letters():\n    assert letters('aba') == {'a', 'b'}\n"
    return {
        "task_id": key,
        "text": "The tests of `calc` fail.",
        "files": {
            "README.md": "Small calculations.\n",
            "docs": {"link": "README.md"},
            "calc/__init__.py": "",
            "calc/core.py": core,
            "run.sh": {"text": "#!/bin/sh\n", "mode": "755"},
            "tests/test_calc.py": test,
        },
        "imports": "from calc.core import double, letters",
        "fail_to_pass": ["assert double(2) == 4", "assert double('a') == 'aa'"],
        "pass_to_pass": ["assert letters('') == set()"],
    }


def edit(place: str, code: str) -> str:
    """Return an answer that edits a place, which is a path with or without line numbers."""
    return f"Thought: hm.\nAction: edit {place}\n```python\n{code}\n```"


def _random_work(randomness: random.Random, observation: str) -> str:
    path = randomness.choice(("calc/core.py", "tests/test_calc.py", "docs", "calc/more.py", "../out.py"))
    codes = ("x = {1: 'a'}", "", "def double(x):\n    return 2 * x", "    return 3", "import os\nos._exit(0)")
    code, line = randomness.choice(codes), randomness.randrange(1, 9)
    other = (f"Action: read {path}", "Action: search def", "Action: test")
    return randomness.choice((*other, edit(f"{path} {line}", code), edit(path, code)))


def _doors(kind: str, **options: str) -> Scenario:
    rows = [{"task_id": "a", "text": "Pass.", "seed": 5, "options": {"num_doors": 2}}, {"task_id": "b"}]
    plays = (("left", "up", "left"), ("", "left", "left"), ())
    entry_point = f"environments.gymnasium_games:{kind}"
    new = partial(make, "gymnasium", entry_point=entry_point, kwargs={"num_doors": 5}, **options)
    return Scenario(new, tuple(map(environment_class("gymnasium").task, rows)), plays, ("left", "right", "right"))


def _example() -> Scenario:
    tasks = tuple(map(Guess.task, ({"task_id": "a", "number": 42}, {"task_id": "b", "number": 7})))
    return Scenario(Guess, tasks, (("50", "25", "about 40"), ("", "99", "1"), ()), ("50", "40", "42"))


def _reasoning_gym() -> Scenario:
    pytest.importorskip("reasoning_gym", reason="needs pip install leafe-verl[reasoning_gym]")
    rows = [{"dataset": "leg_counting", "seed": 3, "index": 2}, {"dataset": "maze", "config": {"max_dist": 8}}]
    tasks = tuple(map(environment_class("reasoning_gym").task, rows))
    plays = (("<answer>7</answer>", "184", "<answer></answer>"), ("", "Hm. <answer>no</answer>"), ())
    return Scenario(partial(make, "reasoning_gym"), tasks, plays, ("183", "Hm.\n<answer> 184 </answer>"))


def _textarena() -> Scenario:
    pytest.importorskip("textarena", reason="needs pip install leafe-verl[textarena]")
    tasks = tuple(map(environment_class("textarena").task, ({"task_id": "a", "seed": 1}, {"task_id": "b", "seed": 9})))
    plays = (("[3]", "four", "[4]"), ("", "I say [2]", "[6]"), ())
    new = partial(make, "textarena", game="GuessTheNumber-v0", kwargs={"max_turns": 60})
    return Scenario(new, tasks, plays, ("[4]", "", "I say [5]"), _random_guess)


def _random_guess(randomness: random.Random, observation: str) -> str:
    return f"[{randomness.randint(1, 25)}]"


def _openenv() -> Scenario:
    pytest.importorskip("openenv", reason="needs pip install leafe-verl[openenv]")
    from environments.openenv_server import new_environment

    rows = [{"task_id": "a"}, {"task_id": "b", "seed": 3, "options": {"number": 7}}]
    plays = (("50", "about 40", "41"), ("", "99", "1"), ())
    tasks = tuple(map(environment_class("openenv").task, rows))
    return Scenario(new_environment, tasks, plays, ("50", "", "42"), episodes=10)


def _verifiers() -> Scenario:
    pytest.importorskip("verifiers", reason="needs pip install leafe-verl[verifiers]")
    tasks = tuple(map(environment_class("verifiers").task, ({"example": 0}, {"example": 1, "task_id": "seven"})))
    plays = (("50", "about 40", "41"), ("", "99", "1"), ())
    new = partial(make, "verifiers", module="environments.verifiers_games", error="not a number")
    return Scenario(new, tasks, plays, ("50", "", "42"), episodes=10)


def _verl_tools() -> Scenario:
    from environments.test_verl_tools import ASSETS, ROW, TOOLS, call

    rows = [{**ROW, "task_id": "five"}, {**ROW, "task_id": "nine", "reward_model": {"ground_truth": "9"}}]
    plays = ((call("add", price=2), call("add", price="two"), "4"), ("", call("add", price=13), call("no")), ())
    tasks = tuple(map(environment_class("verl_tools").task, rows))
    new = partial(make, "verl_tools", tool_config_path=str(TOOLS), reward_path=str(ASSETS), answers=30)
    return Scenario(new, tasks, plays, (call("add", price=2), "", f"So: {call('add', price=3)}", "5"), episodes=10)


def _mcp_tools() -> Scenario:
    pytest.importorskip("mcp.server.mcpserver", reason="needs pip install leafe-verl[mcp_tools]")
    from environments.mcp_settings import notes, write_settings
    from environments.test_verl_tools import ASSETS, ROW, call

    rows = [
        {**ROW, "task_id": "five"},
        {**ROW, "task_id": "nine", "reward_model": {"ground_truth": "9"}, "extra_info": {"files": {"a/b.txt": "hi"}}},
    ]
    wrote = call("write", path="/attempt/workspace/n.txt", text="2 and 3, in /attempt/workspace")
    plays = (
        (call("add", price=2), wrote, call("read", path="n.txt")),
        ("", call("add", price=13), call("read", path="a/b.txt")),
        (),
    )
    tasks = tuple(map(environment_class("mcp_tools").task, rows))
    new = partial(make, "mcp_tools", config_path=write_settings(notes=notes()), reward_path=str(ASSETS), answers=30)
    return Scenario(new, tasks, plays, (call("add", price=2), "", f"So: {call('add', price=3)}", "5"), episodes=2)


def _scienceworld() -> Scenario:
    if problem := scienceworld.missing():
        pytest.skip(problem)
    rows = [{"task": "lifespan-shortest-lived", "variation": 93}, {"task": "find-non-living-thing", "variation": 225}]
    plays = (("look around", "open door to hallway", "fly"), ("", "inventory"))
    solution = ("open door to outside", "go to outside", "focus on baby baby mouse")
    tasks = tuple(map(environment_class("scienceworld").task, rows))
    new = partial(make, "scienceworld", horizon=12, processes=1)
    return Scenario(new, tasks, tuple(map(_as_actions, plays)), _as_actions(solution), _random_experiment, episodes=1)


def _random_experiment(randomness: random.Random, observation: str) -> str:
    place = randomness.choice(("hallway", "kitchen", "outside", "greenhouse", "workshop", "living room"))
    commands = ("look around", "inventory", "wait1", f"open door to {place}", f"go to {place}", "look in cupboard")
    return f"Action: {randomness.choice(commands)}"


def _alfworld() -> Scenario:
    if problem := alfworld.missing():
        pytest.skip(problem)
    rows = [{"kind": "pick_clean_then_place_in_recep", "seed": 1}, {"kind": "pick_two_obj_and_place", "seed": 1}]
    plays = (("go to fridge 1", "open fridge 1", "fly"), ("", "go to cabinet 1"))
    solution = ("go to sinkbasin 1", "take cloth 1 from sinkbasin 1", "clean cloth 1 with sinkbasin 1")
    solution = (*solution, "fly", "go to garbagecan 1", "move cloth 1 to garbagecan 1")
    tasks = tuple(map(environment_class("alfworld").task, rows))
    new = partial(make, "alfworld", horizon=12, processes=1)
    return Scenario(new, tasks, tuple(map(_as_actions, plays)), _as_actions(solution), _random_chore, episodes=2)


def _random_chore(randomness: random.Random, observation: str) -> str:
    admissible = observation.rpartition("Admissible actions: ")[2].rstrip(".").split(", ")
    return f"Action: {randomness.choice([*admissible, 'fly'])}"


def _as_actions(commands: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(command and f"Thought: hm.\nAction: {command}" for command in commands)


SCENARIOS: Mapping[str, Callable[[], Scenario]] = {
    "mbpp": _mbpp,
    "alfworld": _alfworld,
    "scienceworld": _scienceworld,
    "counter": _counter,
    "example": _example,
    "codecontests": _codecontests,
    "mcp_tools": _mcp_tools,
    "openenv": _openenv,
    "reasoning_gym": _reasoning_gym,
    "sokoban": _sokoban,
    "textarena": _textarena,
    "verifiers": _verifiers,
    "verl_tools": _verl_tools,
    "webshop": _webshop,
    "workspace": _workspace,
    "gymnasium": partial(_doors, "Doors"),
    "gymnasium, by its state": partial(_doors, "StatefulDoors"),
    "gymnasium, by a copy": partial(_doors, "Doors", snapshot="copy"),
}
"""Name to scenario: one for every registered environment, and for what several of them share."""


def transcript(environment: Environment, task: Task, actions: tuple[str, ...], seed: int = 0) -> list[Any]:
    """Return everything that an environment answers, from the reset on."""
    return [environment.reset(task, seed), *(environment.step(action) for action in actions)]


def all_transcripts(name: str) -> list[list[Any]]:
    """Return the transcripts of each play on the first task, then on the second, and so on."""
    scenario = SCENARIOS[name]()
    return [transcript(scenario.new(), task, actions) for task in scenario.tasks for actions in scenario.plays]
