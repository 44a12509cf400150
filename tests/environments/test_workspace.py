"""Workspace: how answers are read, what they do to the files, verdicts, and rollback of a tree."""

from __future__ import annotations

import dataclasses
import pickle
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from contracts.scenarios import edit, workspace_row
from fakes import ScriptedPolicy, grow, reflection, shape, turns_in
from leafe_verl.core.environment import Step, has_failed
from leafe_verl.core.policy import Message
from leafe_verl.environments import make
from leafe_verl.environments.rows import build_verl_row
from leafe_verl.environments.workspace.actions import Edit, Read, Refused, RunTests, Search, parse_action
from leafe_verl.environments.workspace.environment import Workspace
from leafe_verl.environments.workspace.rows import build_folder, pack_files
from leafe_verl.environments.workspace.snapshots import Folder, is_plain, read_folder
from leafe_verl.sandbox import File, Link
from leafe_verl.sandbox.unpacking import unpack

ROW = workspace_row("a")
TASK = Workspace.task(ROW)
FENCED = 'def f(x):\n    """Add.\n\n    ```\n    f(1)\n    ```\n    """\n    return x + 1\n'
REPAIR = edit("calc/core.py 2", "    return x + x")
SPOIL = edit("calc/core.py 6", "    return word")


def play(*answers: str, row: dict[str, Any] = ROW) -> list[Step]:
    environment = Workspace()
    environment.reset(Workspace.task(row), 0)
    return [environment.step(answer) for answer in answers]


# --- Answers ---


@pytest.mark.parametrize(
    ("answer", "action"),
    [
        ("Thought: look.\nAction: read a/b.py", Read("a/b.py")),
        ("Action: read a.py 3-9", Read("a.py", 3, 9)),
        ("Action: read a.py lines 3 to 9", Read("a.py", 3, 9)),
        ("Action: read a.py:12", Read("a.py", 12)),
        ("**Action:** `cat ./a.py`", Read("a.py")),
        ('Action: read("a.py", 3, 9)', Read("a.py", 3, 9)),
        ("I look first.\nread a.py", Read("a.py")),
        ("Action: open /a.py", Read("a.py")),
        ("Action: search def f(x)", Search("def f(x")),
        ("Action: grep 'x == 1'", Search("x == 1")),
        ("Action: test", RunTests()),
        ("Action: run the tests", RunTests()),
        ("Action: pytest tests", RunTests()),
        ("<think>Action: read b.py</think>Action: test", RunTests()),
        ("Action: edit a.py 3\n```python\n    x = 1\n```", Edit("a.py", 3, None, "    x = 1\n")),
        ("Action: edit a.py 3-4\n```\n```", Edit("a.py", 3, 4, "")),
        ("Action: edit a.py\n```\nx = 1\n```\nObservation: ok", Edit("a.py", None, None, "x = 1\n")),
        ("See `a.py`:\n```\nold\n```\nAction: edit a.py 1-2\n```\nnew\n```", Edit("a.py", 1, 2, "new\n")),
        (
            "Thought: I edit a.py, which has\n```\nold\n```\nAction: edit a.py 1-2\n```\nnew\n```",
            Edit("a.py", 1, 2, "new\n"),
        ),
        ("Action: edit a.py 3\n```python\nx = 1", Edit("a.py", 3, None, "x = 1")),
        ("Action: edit a.py 3\n```\n3| x = 1\n4| y = 2\n```", Edit("a.py", 3, None, "x = 1\ny = 2\n")),
        (f"Action: edit a.py\n```python\n{FENCED}```\nDone.", Edit("a.py", None, None, FENCED)),
        ("Action: edit a.md\n````\n# A\n```sh\nls\n```\n````", Edit("a.md", None, None, "# A\n```sh\nls\n```\n")),
        ("Action: edit a.md\n~~~\n# A\n```\nls\n```\n~~~", Edit("a.md", None, None, "# A\n```\nls\n```\n")),
        ("Action: edit a.py 3\n```\n    else:\n```\nThen\n```\nx = 1\n```", Edit("a.py", 3, None, "    else:\n")),
    ],
)
def test_an_answer_is_read_with_leniency(answer: str, action: object) -> None:
    assert parse_action(answer) == action


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("", "No action found"),
        ("I would find the defect.", "No action found"),
        ("Action: delete a.py", "No action found"),
        ("Action: read", "needs a path"),
        ("Action: search", "needs a text"),
        ("Action: edit a.py 3", "needs the new lines"),
        ("Action: edit a.md\n```markdown\n# A\n```sh\nls\n```\nMore\n```", "between lines of ```` instead"),
    ],
)
def test_what_is_no_action_is_told_so(answer: str, text: str) -> None:
    with pytest.raises(Refused, match=text):
        parse_action(answer)


# --- Files ---


def test_reading_and_searching_show_lines_with_numbers() -> None:
    read, part, link, search = play(
        "Action: read calc/core.py", "Action: read calc/core.py 5-6", "Action: read docs", "Action: search RETURN"
    )
    assert read.observation.startswith(
        "calc/core.py, lines 1 to 6 of 6:\n1| def double(x):\n2|     return x + x + 1\n3| \n"
    )
    assert part.observation == "calc/core.py, lines 5 to 6 of 6:\n5| def letters(word):\n6|     return set(word)"
    assert link.observation == "README.md, lines 1 to 1 of 1:\n1| Small calculations."
    assert search.observation == "calc/core.py:2: return x + x + 1\ncalc/core.py:6: return set(word)"
    assert {has_failed(step) for step in (read, part, link, search)} == {None}


def test_an_edit_keeps_mode_and_link() -> None:
    environment = Workspace()
    environment.reset(TASK, 0)
    environment.step(edit("run.sh 1", "#!/bin/bash"))
    environment.step(edit("docs", "Changed."))
    environment.step(edit("calc/new/more.py", "x = 1"))
    environment.step(edit("calc/new/__init__.py", ""))
    environment.step(edit("calc/core.py 3-6", ""))
    files = environment.snapshot().files
    assert files.find("run.sh") == File(b"#!/bin/bash\n", 0o755)
    assert (files.find("docs"), files.find("README.md")) == (Link("README.md"), File(b"Changed.\n"))
    assert files.find("calc/new/more.py") == File(b"x = 1\n") and files.find("calc/new/__init__.py") == File(b"")
    assert files.find("calc/core.py") == File(b"def double(x):\n    return x + x + 1\n")


def test_a_line_ends_where_one_ends_in_a_file() -> None:
    environment = Workspace()
    environment.reset(TASK, 0)
    text = "s = 'a\x0cb'\nt = 'c\u2028d\x85e'\r\n\r\nu = 1"
    assert not environment.step(edit("note.py", text)).info["error"]
    assert not environment.step(edit("note.py 4", "4| u = '\x0c'")).info["error"]
    content = "s = 'a\x0cb'\nt = 'c\u2028d\x85e'\n\nu = '\x0c'\n".encode()
    assert environment.snapshot().files.find("note.py") == File(content)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("Action: read nothing.py", r"There is no file 'nothing.py'. The files are:\nREADME.md \(1 lines\)"),
        ("Action: read calc", "There is no file 'calc'"),
        ("read \ud800.py", r"There is no file '\?.py'"),
        ("Action: read ../secret", "leads out of the repository"),
        ("Action: read out", "leads out of the repository"),
        ("Action: read out/passwd", "leads out of the repository"),
        ("Action: read loop", "leads out of the repository"),
        ("Action: read calc/core.py 7", "has lines 1 to 6; 7 is none"),
        ("Action: search nowhere", "No line holds 'nowhere'"),
        (edit("calc/core.py 9", "x"), "has lines 1 to 6; 9-9 are not"),
        (edit("calc/core.py 4-3", "x"), "4-3 are not"),
        (edit("none.py 3", "x = 1"), "There is no file"),
        (edit("calc", "x"), "cannot be a file"),
        (edit("calc/core.py/x.py", "x = 1"), "cannot be a file"),
        (edit("out/x.py", "x = 1"), "leads out of the repository"),
        (edit("../x.py", "x = 1"), "leads out of the repository"),
        (
            edit("calc/core.py 2", "    return 2 *"),
            r"would not be Python any more .* Its line 2 would be:\n    return 2 \*",
        ),
        (edit("calc/core.py 2", "    return x + x + 1"), "like that already"),
        (edit("a.txt", "x" * 70_000), "would have 70001 bytes"),
        (edit("a/" * 21 + "x.py", "x = 1"), "lies in 21 folders, and the path has 46 bytes; expected at most 20"),
        (edit("a/" * 1500 + "x.py", "x = 1"), "lies in .* folders"),
    ],
)
def test_what_cannot_be_done_changes_nothing_and_is_told(answer: str, text: str) -> None:
    links = {"out": {"link": "../../etc"}, "loop": {"link": "loop"}}
    environment = Workspace()
    environment.reset(Workspace.task({**ROW, "files": {**ROW["files"], **links}}), 0)
    before = environment.snapshot()
    step = environment.step(answer)
    assert step.info["error"] and not step.info["success"] and has_failed(step) is True
    assert re.search(text, step.observation), step.observation
    assert environment.snapshot() == before


def test_a_repository_has_a_limit_of_files() -> None:
    files = {f"f{number}": "" for number in range(250)}
    (step,) = play(edit("one-more", "x"), row={**ROW, "files": files})
    assert "no more are allowed" in step.observation
    few = {f"{number}/" + "a/" * 18 + "x": "" for number in range(25)}
    (step,) = play(edit("one/more/a/b/c/d", "x"), row={**ROW, "files": few})
    assert step.info["error"] and "there are 506 files and folders; expected at most 500" in step.observation


def test_a_run_takes_the_largest_repository() -> None:
    most = {**ROW["files"], "b" * 250 + "/" + ("a/" * 19) + "x.py": ""}
    deep, spread = most, {**most, **{f"d{number}/x": "" for number in range(220)}}
    for files in (deep, spread):
        (step,) = play("Action: test", row={**ROW, "files": files})
        assert step.info["passed"] == 1 and "1 passed, 1 failed" in step.observation


def test_an_edit_changes_no_other_byte() -> None:
    environment = Workspace()
    environment.reset(TASK, 0)
    odd = b"caf\xe9\r\n\x0c\xe2\x80\xa8\nlast"
    environment.state = dataclasses.replace(environment.state, files=Folder.of({"odd.txt": File(odd)}))
    shown = environment.step("Action: read odd.txt").observation
    assert "1| caf\\udce9" in shown and shown.encode()
    environment.step(edit("odd.txt 3", "new \ud800"))
    assert environment.snapshot().files.find("odd.txt") == File(odd.replace(b"last", b"new ?\n"))


# --- The tree of files ---


def test_equal_files_have_equal_digests_whatever_led_to_them() -> None:
    files = build_folder(TASK.data)
    assert Folder.of(dict(reversed(files.files().items()))).digest == files.digest
    core = files.find("calc/core.py")
    assert isinstance(core, File)
    changed = files.with_node("calc/core.py", File(b"x\n"))
    assert changed.digest != files.digest
    assert (
        changed.with_node("calc/core.py", core).digest == files.digest == files.with_node("calc/core.py", core).digest
    )
    others = (File(core.content, 0o755), Link(core.content.decode()), File(core.content + b"\n"))
    assert len({files.with_node("calc/core.py", other).digest for other in others} | {files.digest}) == 4


def test_what_did_not_change_is_shared() -> None:
    files = build_folder(TASK.data)
    changed = files.with_node("calc/core.py", File(b"x\n"))
    assert changed.find("tests") is files.find("tests") and changed.find("calc") is not files.find("calc")


def test_files_on_disk_are_identical_to_the_byte_modes_and_links_included(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = build_folder(TASK.data).with_node("calc/data", File(bytes(range(256)), 0o600)).with_node("up", Link("../x"))
    monkeypatch.chdir(tmp_path)
    packed = {
        path: [each.target] if isinstance(each, Link) else [each.content.decode("latin-1"), each.mode]
        for path, each in files.files().items()
    }
    unpack(packed)
    assert read_folder(tmp_path).digest == files.digest


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\0", "x" * 256])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    assert not is_plain(path)
    with pytest.raises(ValueError, match="expected one below the repository"):
        Folder.of({path: File(b"")})


def test_a_path_is_a_file_or_a_folder() -> None:
    with pytest.raises(ValueError, match="both a file and a folder"):
        Folder.of({"a": File(b""), "a/b": File(b"")})


# --- Tests and verdicts ---


def test_the_suite_shows_what_fails_and_hidden_tests_decide() -> None:
    first, read, repair, last = play("Action: test", "Action: read calc/core.py", REPAIR, "Action: test")
    assert first.observation == (
        "FAILED tests.test_calc.test_double\n  tests.test_calc, line 5, in test_double: assert double(2) == 4\n"
        "  5 on the left\n  4 on the right\n1 passed, 1 failed\n1 of 3 hidden tests pass."
    )
    assert repair.observation.startswith(
        "Edited.\ncalc/core.py, lines 1 to 5 of 6:\n1| def double(x):\n2|     return x + x\n"
    )
    assert last.terminated and last.info["success"] and last.observation == "3 of 3 hidden tests pass."
    assert [has_failed(step) for step in (first, read, repair, last)] == [None, None, None, False]


def test_the_return_is_what_was_repaired_as_long_as_nothing_breaks() -> None:
    half = edit("calc/core.py 2", "    return 2 * x if x == 2 else x")
    steps = play(
        "Action: test",
        half,
        "Action: test",
        SPOIL,
        "Action: test",
        edit("calc/core.py 6", "    return set(word)"),
        REPAIR,
        "test",
    )
    rewards = [step.reward for step in steps]
    assert rewards == [0.0, 0.0, 0.5, 0.0, -0.5, 0.0, 0.0, 1.0] and sum(rewards) == 1.0
    assert has_failed(steps[2]) is True and has_failed(steps[4]) is True


FORGERIES = {
    "tests that are overwritten": edit("tests/test_calc.py", "def test_double():\n    pass"),
    "tests that are emptied": edit("tests/test_calc.py", ""),
    "leaving early": edit("calc/__init__.py", "import os\nprint('2 passed, 0 failed')\nos._exit(0)"),
    "equal to everything": edit(
        "calc/core.py",
        "class A(str):\n    __eq__ = lambda s, o: True\n    __hash__ = str.__hash__\nletters = double = A",
    ),
    "answers of its own": edit(
        "calc/core.py",
        "import os\nos.write(3, b'{\"defined\": true}\\n' + b'{\"value\": 4}\\n' * 3)\ndouble = letters = len",
    ),
    "a runner of its own": edit("importlib.py", "def import_module(name): return None"),
    "reading what is expected": edit(
        "calc/core.py",
        "import gc\ndef double(x):\n    found = [o for o in gc.get_objects() if isinstance(o, list) and 'aa' in o]\n"
        "    return found[0][0] if found else 0\nletters = set",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_no_edit_forges_a_verdict(name: str) -> None:
    forged, tested = play(FORGERIES[name], "Action: test")
    assert not forged.info["error"], forged.observation
    assert not tested.terminated and not tested.info["success"] and tested.reward == 0.0


def test_no_edit_forges_that_a_call_raises() -> None:
    """A hook may define any name for the calls of the hidden tests."""
    code = (
        "import sys\ndef hook(frame, *rest):\n    if frame.f_globals.get('__name__') == 'solution':\n"
        "        frame.f_globals.update(raises=lambda *a: True)\nsys.setprofile(hook)"
    )
    row = {**ROW, "fail_to_pass": ["assert raises(ValueError, double('x'))"]}
    forged, tested = play(edit("calc/__init__.py", code), "Action: test", row=row)
    assert not forged.info["error"] and not tested.info["success"] and tested.reward == 0.0
    repair = edit("calc/core.py 2", "    return 2 * x if isinstance(x, int) else int('x')")
    assert play(repair, "Action: test", row=row)[-1].info["success"]


HARMS = {
    "fork bomb": ("import os\nwhile True: os.fork()", "PermissionError|Resource temporarily"),
    "a million files": ("n = 0\nwhile True:\n    open(f'f{n}', 'w').close()\n    n += 1", "wrote too many files"),
    "a huge file": ("open('large', 'wb').write(bytes(2**24))", "File too large"),
    "an endless loop": ("while True: pass", "time limit"),
    "a flood of text": ("while True: print('x' * 1000)", "printed too much"),
}


@pytest.mark.parametrize("name", HARMS)
def test_a_hostile_edit_harms_nothing(name: str) -> None:
    code, told = HARMS[name]
    environment = Workspace(cpu_seconds=2, wall_seconds=120)
    environment.reset(TASK, 0)
    before = environment.snapshot()
    environment.step(edit("tests/test_calc.py", code))
    step = environment.step("Action: test")
    assert re.search(told, step.observation), step.observation
    assert "1 of 3 hidden tests pass." in step.observation and len(step.observation) <= 3000
    environment.restore(before)
    assert environment.step(REPAIR) and environment.step("Action: test").info["success"]


# --- Rollback ---


def test_random_episodes_are_restored_to_the_byte_in_another_order() -> None:
    dice = random.Random(0)
    snapshots = []
    for _ in range(50):
        environment = Workspace()
        environment.reset(TASK, 0)
        for _ in range(20):
            path = dice.choice(("calc/core.py", "docs", "run.sh", "a.py", "calc/b.txt", "deep/er/c"))
            environment.step(edit(dice.choice((path, f"{path} {dice.randrange(1, 9)}")), f"x = {dice.random()}"))
            snapshots.append(pickle.dumps(environment.snapshot()))
    taken = [(pickle.loads(snapshot), snapshot) for snapshot in snapshots]
    digests = [state.files.digest for state, _ in taken]
    order = list(range(len(taken)))
    dice.shuffle(order)
    environment = Workspace()
    for index in order:
        assert environment.restore(taken[index][0]) == 0
        restored = environment.snapshot().files
        again = Folder.of(restored.files())
        assert again.digest == digests[index] and again == restored == pickle.loads(taken[index][1]).files
        environment.step(edit("calc/core.py", "spoiled = True"))


def test_a_tree_is_explored_with_rollback() -> None:
    """A policy that spoils the file, reflects, and after rollback to that step repairs it."""
    told = "Do not touch letters; double adds one too many."

    def act(messages: Sequence[Message]) -> str:
        knows = any(told in message["content"] for message in messages)
        script = ["Action: test", "Action: read calc/core.py", REPAIR if knows else SPOIL, "Action: test"]
        return script[turns_in(messages) % len(script)]

    tree = grow(
        ScriptedPolicy(act, {4: reflection(3, told)}),
        Workspace,
        task=TASK,
        environment={"horizon": 4},
        budget={"attempts": 2},
    )
    assert [(parent, first, outcome) for parent, first, _, outcome in shape(tree)] == [
        (None, 1, "horizon"),
        (0, 3, "success"),
    ]
    spoiled, repaired = tree.attempts
    assert repaired.replayed_steps == 0
    assert "return word" in spoiled.steps[2].observation and "0 passed, 2 failed" in spoiled.steps[3].observation
    # The branch has the files as they were before the edit that was rolled back.
    first, before, spoiled_files = (step.snapshot.files for step in (*spoiled.steps[:1], *spoiled.steps[2:4]))
    assert first == before == repaired.steps[0].snapshot.files != spoiled_files
    assert (spoiled.steps[-1].reward, repaired.steps[-1].reward) == (0.0, 1.0)


# --- Rows and options ---


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"text": ""}, "text is ''"),
        ({"files": {}}, "files is {}"),
        ({"files": {"a": 3}}, "a is 3; expected a text"),
        ({"files": {"../a": ""}}, "below the repository"),
        ({"files": {"a/" * 21 + "x": ""}}, "lies in 21 folders"),
        ({"files": {"a/" * 1500 + "x": ""}}, "lies in 1500 folders"),
        ({"files": {("a" * 250 + "/") * 5 + "x": ""}}, "has 1256 bytes; expected at most 20 folders and 1024 bytes"),
        ({"files": {f"{n}/{n}/{n}": "" for n in range(200)}}, "files and folders; expected at most 500"),
        (
            {"files": {"a": {"text": "", "mode": 644}}},
            'a has mode 644; expected .* such as "755", and .* 644 is 1204 in',
        ),
        ({"files": {"a": {"text": "", "mode": "4755"}}}, "a has mode '4755'; expected a string of three octal digits"),
        ({"files": {"a": {"link": ""}}}, "a links to ''; expected a path of 1 to 1024 bytes"),
        ({"files": {"a": {"link": "b" * 2000}}}, "expected a path of 1 to 1024 bytes"),
        ({"files": {"a": "x" * 70_000}}, "a has 70000 bytes; expected at most 65536"),
        ({"files": {str(number): "" for number in range(300)}}, "there are 300 files; expected at most 250"),
        ({"fail_to_pass": []}, "fail_to_pass is empty"),
        ({"fail_to_pass": ["f(1)"]}, "expected one assert"),
        (
            {
                "imports": "from pack import f\ndef close(a, b): return abs(a - b) < 1e-6",
                "fail_to_pass": ["assert close(f(1), 7.25)"],
            },
            "only asks whether close says so of f",
        ),
        ({"fail_to_pass": ["assert raises(OwnError, double('x'))"]}, "only asks whether raises says so"),
        ({"pass_to_pass": "assert f(1)"}, "expected a list of strings"),
        ({"task_id": None}, "no task_id"),
    ],
)
def test_a_row_that_is_no_task_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Workspace.task({**ROW, **changes})


def test_modes_are_octal_digits() -> None:
    files = {"a": File(b"", 0o755), "b": File(b"", 0o7), "c": File(b"")}
    packed = pack_files(files)
    assert packed == {"a": {"text": "", "mode": "755"}, "b": {"text": "", "mode": "007"}, "c": ""}
    packed["d"] = {"text": "", "mode": "0o600"}
    assert build_folder(Workspace.task({**ROW, "files": packed}).data).files() == {**files, "d": File(b"", 0o600)}


def test_a_task_holds_no_patch() -> None:
    assert "patch" not in Workspace.task({**ROW, "patch": "secret"}).data
    assert Workspace.task(build_verl_row(TASK, "train", 0)) == TASK


@pytest.mark.parametrize(("option", "value"), [("horizon", 0), ("feedback_characters", 10)])
def test_an_option_out_of_range_is_refused(option: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"leafe\.environment\.options\.{option} is {value}; expected"):
        make("workspace", **{option: value})


def test_the_same_files_are_judged_once_in_a_tree() -> None:
    class Counting:
        runs = 0

        def call(self, *arguments: Any) -> Any:
            self.runs += 1
            return inner.call(*arguments)

        def execute(self, *arguments: Any) -> Any:
            return inner.execute(*arguments)

    inner, sandbox = Workspace()._sandbox, Counting()
    task = Workspace.task(ROW)
    for _ in range(2):
        environment = Workspace(sandbox)  # type: ignore[arg-type]
        environment.reset(task, 0)
        environment.step("Action: test")
        environment.step(SPOIL)
        environment.step("Action: test")
    assert sandbox.runs == 2
