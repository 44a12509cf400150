"""MCP servers as an environment: calls, files, rollback, and each way in which a server can fail."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp.server.mcpserver", reason="needs pip install leafe-verl[mcp_tools]")

from environments.mcp_settings import notes, write_settings
from environments.test_verl_tools import ASSETS, ROW, call
from fakes import ScriptedPolicy, experience_in, reflection, text_of, turns_in
from leafe_verl.core import Explorer, Outcome, Settings
from leafe_verl.core.environment import EnvironmentFailure, EnvironmentTimeout, ReplayDivergence
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.core.sft_examples import Kind, build_examples
from leafe_verl.environments import make, mcp_tools
from leafe_verl.environments.mcp_config import read_config
from leafe_verl.environments.mcp_tools import McpTools

TASK = McpTools.task({**ROW, "extra_info": {"files": {"a/b.txt": "It is /attempt/workspace."}}}, default_key="7")
SECONDS = 60
"""Longest wait for what ends soon on a machine that is not busy."""


@contextmanager
def playing(config_path: str | None = None, **options: Any) -> Iterator[McpTools]:
    options = {"reward_path": str(ASSETS), "start_seconds": 120, "call_seconds": 60, **options}
    environment = make("mcp_tools", config_path=config_path or write_settings(notes=notes()), **options)
    assert isinstance(environment, McpTools)
    try:
        assert environment.reset(TASK, 0) == ("Add 2 and 3, then answer the total.", {})
        yield environment
    finally:
        environment.close()


def becomes_true(condition: Any) -> bool:
    deadline = time.monotonic() + SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(condition())


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# --- Playing ---


def test_tools_are_called_and_the_answer_is_scored_with_the_calls_and_the_folder(tmp_path: Path) -> None:
    reward = tmp_path / "reward.py"
    reward.write_text(
        "import os\n"
        "async def compute_score(data_source, solution_str, ground_truth, extra_info):\n"
        "    made = [(each['name'], each['error']) for each in extra_info['calls']]\n"
        "    return {'score': 1.0, 'feedback': f\"{made} {sorted(os.listdir(extra_info['folder']))}\"}\n"
    )
    with playing(reward_path=str(reward)) as environment:
        assert environment.system_prompt == "You keep a till."
        actions = (call("add", price=2), call("add", price=13), call("look"), call("write", path="n.txt", text="hi"))
        steps = [environment.step(each) for each in (*actions, "5")]
    assert [step.observation for step in steps] == [
        "The total is 2.",
        "Error executing tool add: nothing costs 13",
        "A picture:\n[image image/png]\na note",
        "Wrote /attempt/workspace/n.txt.",
        "[('add', False), ('add', True), ('look', False), ('write', False)] ['a', 'n.txt']",
    ]
    assert [step.info["error"] for step in steps] == [False, True, False, False, False]
    assert steps[0].info["action"] == 'add({"price": 2})'
    assert (steps[-1].terminated, steps[-1].reward, steps[-1].info["success"]) == (True, 1.0, True)


def test_state_in_the_process_and_in_the_folder_comes_back_by_the_calls() -> None:
    path = "/attempt/workspace/n.txt"
    with playing(feedback_characters=40) as environment:
        environment.step(call("add", price=2))
        environment.step(call("write", path=path, text="first"))
        snapshot = environment.snapshot()
        environment.step(call("write", path=path, text="second"))
        environment.step(call("write", path="other.txt", text=""))
        assert environment.restore(snapshot) == 2
        assert environment.step(call("ls")).observation == "a\nn.txt"
        assert environment.step(call("read", path="n.txt")).observation == "first"
        assert environment.step(call("read", path="a/b.txt")).observation == "It is /attempt/workspace."
        assert environment.step(call("add", price=3, note="two")).observation == "The total is 5. Noted: two."
        # The path is another after each restore, and must not be seen.
        assert "leafe-mcp" in Path(environment._pool._places[0].process.call("workspace")).parent.name  # type: ignore[union-attr]
        shouted = environment.step(call("shout", size=10**6)).observation
        assert len(shouted) == 40 and shouted[0] == "A" and shouted[-1] == "!"


@pytest.mark.parametrize(("tool", "shows"), [("clock", r"It is \d+"), ("visit", "Visit 2")])
def test_what_a_replay_does_not_bring_back_is_refused_with_the_reason(tool: str, shows: str, tmp_path: Path) -> None:
    settings = write_settings(notes=notes(VISITS=str(tmp_path / "visits")))
    with playing(settings) as environment:
        environment.step(call(tool))
        with pytest.raises(ReplayDivergence, match=f"'mcp_tools' must be deterministic .* it now shows: '.*{shows}"):
            environment.restore(environment.snapshot())


def test_an_attempt_that_loses_its_servers_to_another_goes_on_by_replay() -> None:
    with playing(processes=1) as one:
        one.step(call("add", price=2))
        with playing(processes=1) as two:
            two.step(call("add", price=40))
            assert one.step(call("add", price=3)).observation == "The total is 5."
        assert one._pool.counts["lost"] == 0 and one._pool.counts["taken"] >= 2


def test_exploring_rolls_back_and_the_correction_becomes_an_example() -> None:
    def act(messages: Any) -> str:
        told = experience_in(messages) is not None
        actions = (call("add", price=2), call("add", price=3 if told else 13), "5" if told else "2")
        return actions[turns_in(messages)]

    options = {"config_path": write_settings(notes=notes()), "reward_path": str(ASSETS), "start_seconds": 120}
    policy = ScriptedPolicy(act, {3: reflection(2, "Add 3.")})
    settings = Settings.from_mapping({"environment": {"step_timeout": 200}})
    explorer = Explorer(lambda: make("mcp_tools", **options), policy, settings, asyncio.Semaphore(2))
    failed, branch = (tree := asyncio.run(explorer.explore(TASK, 1))).attempts
    assert (failed.outcome, [step.error for step in failed.steps]) == (Outcome.FAILURE, [False, True, False])
    assert (branch.outcome, branch.replayed_steps) == (Outcome.SUCCESS, 1)
    assert [step.observation for step in branch.steps] == ["The total is 5.", "The score of this answer is 1."]
    examples = build_examples(tree, DistillationSettings(), 0)
    (example,) = [each for each in examples if each.kind is Kind.COUNTERFACTUAL]
    assert call("add", price=3) in text_of(example.sequence.token_ids)


# --- Failures ---


def test_a_server_that_hangs_is_killed_with_what_it_started_and_its_folder_is_removed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with playing(write_settings(notes=notes(PIDS=str(pids))), call_seconds=5) as environment:
        with pytest.raises(EnvironmentTimeout, match="'notes': a call of sleep took too long; .*call_seconds=5"):
            environment.step(call("sleep", seconds=600))
        server, child, folder = pids.read_text().split()
        assert becomes_true(lambda: not (runs(int(server)) or runs(int(child)) or Path(folder).exists()))
        environment.restore(environment.snapshot())
        assert environment.step(call("add", price=1)).observation == "The total is 1."


def test_a_server_that_dies_is_a_failure_with_its_last_words_and_harms_no_other_attempt() -> None:
    with playing() as other, playing() as environment:
        other.step(call("add", price=2))
        with pytest.raises(EnvironmentFailure, match="(?s)'notes': it ended in a call of die.*leaving.*exit status 3"):
            environment.step(call("die", status=3))
        assert other.step(call("add", price=3)).observation == "The total is 5."


def test_closing_ends_a_hanging_call_at_once(tmp_path: Path) -> None:
    pids, failures = tmp_path / "pids", list[str]()
    with playing(write_settings(notes=notes(PIDS=str(pids)))) as environment:

        def step() -> None:
            try:
                environment.step(call("sleep", seconds=600))
            except EnvironmentFailure as failure:
                failures.append(str(failure))

        thread = threading.Thread(target=step)
        thread.start()
        assert becomes_true(pids.exists)
    thread.join(SECONDS)
    assert failures == ["MCP server 'notes': it was ended in a call of sleep"]


@pytest.mark.parametrize(
    ("how", "options", "problem"),
    [
        ("hang", {"start_seconds": 1}, r"its start took too long; the limit is .*\.start_seconds=1"),
        ("die", {}, ".*no license.*exit status 1.*Fix the server in .*json; unless it has a cwd"),
    ],
)
def test_a_server_that_does_not_start_is_refused_with_the_reason(
    how: str, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=f"(?s)MCP server 'notes': {problem}"):
        make("mcp_tools", config_path=write_settings(notes=notes(how)), **{"start_seconds": 120, **options})


def test_servers_end_with_a_host_that_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = (
        "from environments.test_mcp_tools import call, notes, playing, write_settings\n"
        f"with playing(write_settings(notes=notes(PIDS={str(pids)!r})), call_seconds=600) as environment:\n"
        "    environment.step(call('sleep', seconds=600))\n"
    )
    tests = Path(__file__).parents[1]
    variables = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}"}
    with subprocess.Popen([sys.executable, "-c", program], env=variables) as host:
        assert becomes_true(lambda: pids.exists() and len(pids.read_text().split()) == 3)
        host.kill()
    server, child, _ = pids.read_text().split()
    assert becomes_true(lambda: not (runs(int(server)) or runs(int(child))))


# --- Settings ---


def test_tools_of_the_same_name_are_told_apart_and_a_list_restricts_them(caplog: pytest.LogCaptureFixture) -> None:
    two = write_settings(**{"notes": notes("chat"), "old till": notes()})
    with playing(two, tools=["notes__add", "old_till__add"]) as environment:
        assert environment.calls is not None and list(environment.calls.tools) == ["notes__add", "old_till__add"]
        both = call("notes__add", price=2) + call("old_till__add", price=40)
        assert environment.step(both).observation == "The total is 2.\nThe total is 40."
        assert environment.step(call("notes__ls")).info["error"]
    # What a server prints beside its messages is a line in the log.
    logged = [record for record in caplog.records if record.name == "mcp.client.stdio"]
    assert logged and all("'Welcome!'" in each.message and not each.exc_info for each in logged)
    with pytest.raises(ValueError, match=r"options\.tools has add; the servers have notes__add, .*old_till__die"):
        make("mcp_tools", config_path=two, tools=["add"])


def test_settings_of_editors_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KEY", "k")
    program = {
        "type": "stdio",
        "command": sys.executable,
        "args": ["-m", "${workspaceFolder}/x", "${env:KEY}${KEY}${NONE:-d}"],
        "env": {"B": "${workspaceFolder}", "A": "1"},
        "autoApprove": ["add"],
    }
    file = tmp_path / "mcp.json"
    file.write_text(json.dumps({"servers": {"one": program, "two": {"disabled": True, "url": "x"}}, "inputs": []}))
    (found,) = read_config(str(file))
    assert found.args == ("-m", "${workspaceFolder}/x", "kkd")
    placed = found.in_folder("/f")
    assert (placed.args[1], placed.env, placed.cwd) == ("/f/x", (("A", "1"), ("B", "/f")), "/f")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "cannot be read as JSON"),
        ({"tools": []}, "expected an object with mcpServers or servers"),
        ({"mcpServers": {}}, "names no server"),
        ({"mcpServers": {"a": 3}}, "server 'a' is 3; expected an object with command"),
        ({"mcpServers": {"a": {"url": "http://x"}}}, "server 'a' is reached by a URL"),
        ({"mcpServers": {"a": {"command": "python3", "args": "x"}}}, "server 'a': args is 'x': Input should be"),
        ({"mcpServers": {"a": {"args": []}}}, "server 'a': command is .*Field required"),
        ({"mcpServers": {"a": {"command": "no-such-program"}}}, "no program 'no-such-program' on the PATH"),
        ({"mcpServers": {"a": {"command": "${input:key}"}}}, r"uses \$\{input:key\}; expected \$\{workspaceFolder\}"),
        ({"mcpServers": {"a": {"command": "python3", "envFile": ".env"}}}, "has envFile, which is not read here"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(content: Any, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=rf"(?s)options\.config_path is '.*mcp\.json'.*{problem}"):
        make("mcp_tools", config_path=str(file))


def test_rows_options_and_versions_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, problem in ((["a"], "expected an object"), ({"../a": ""}, "one in the folder"), ({"": ""}, "path ''")):
        with pytest.raises(ValueError, match=f"extra_info.files .*{problem}"):
            McpTools.task({**ROW, "extra_info": {"files": files}}, default_key="1")
    with pytest.raises(ValueError, match=r"unknown .*options\.step_seconds; the limits of servers are start_seconds"):
        make("mcp_tools", config_path=write_settings(notes=notes()), step_seconds=3)
    with pytest.raises(ValueError, match=r"options\.call_seconds is 0; expected a number above 0"):
        make("mcp_tools", config_path=write_settings(notes=notes()), call_seconds=0)
    monkeypatch.setattr(mcp_tools.importlib.metadata, "version", lambda name: "1.30.0")
    with pytest.raises(ModuleNotFoundError, match=r"needs mcp 2, and 1\.30\.0 is installed; fix it with"):
        make("mcp_tools", config_path=write_settings(notes=notes()))
