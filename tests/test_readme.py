"""The READMEs: the example of an environment runs, and links and commands name files that are there."""

from __future__ import annotations

import importlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from leafe_verl.environments import environment_class, make
from leafe_verl.environments.rows import build_verl_row
from leafe_verl.task_files import read_tasks

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for folder in ("", ".github", "leafe_verl", "recipes", "tests")
    for page in (ROOT / folder).glob("**/*.md" if folder else "*.md")
)
MOST_BYTES = 8000
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
PLACE = re.compile(r"\]\(([^)#\s]*)#([^)]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
SCRIPT = re.compile(r"(?:bash|python) ((?:recipes|tests)/[\w/]+\.(?:sh|py))")


@pytest.fixture
def guess(tmp_path, monkeypatch):
    """The README's environment, in a module of its own."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "guess.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("guess").Guess
    monkeypatch.delitem(sys.modules, "guess")


def read_task(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"task_id": "a", "number": 42}) + "\n")
    (task,) = read_tasks(str(path), "guess:Guess")
    return task


def test_the_readmes_environment_plays_and_rolls_back(guess, tmp_path):
    task, environment = read_task(tmp_path), make("guess:Guess")
    assert isinstance(environment, guess) and environment.horizon == 8 and environment.system_prompt
    observation, _ = environment.reset(task, seed=0)
    assert observation
    assert environment.step("about 40").info == {"success": False, "failed": True}
    snapshot = environment.snapshot()
    assert environment.step("7").info["failed"]
    assert environment.restore(snapshot) == 1
    last = environment.step("42")
    assert last.terminated and last.reward == 1.0 and last.info == {"success": True, "failed": False}


def test_the_readmes_environment_writes_the_rows_that_it_reads(guess, tmp_path):
    task = read_task(tmp_path)
    again = guess.task(build_verl_row(task, "train", 0))
    assert replace(again, environment=task.environment) == task
    assert environment_class(task.environment) is guess


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_commands_name_what_is_there(page):
    text = page.read_text()
    linked = [page.parent / target for target in LINK.findall(text) if "://" not in target]
    named = [ROOT / script for script in SCRIPT.findall(text)]
    assert [str(path) for path in (*linked, *named) if not path.exists()] == []


def anchor(heading: str) -> str:
    """Return what GitHub calls a heading in links."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_a_heading_name_one_that_is_there(page):
    linked = [(target, place) for target, place in PLACE.findall(page.read_text()) if "://" not in target]
    missing = []
    for target, place in linked:
        text = (page.parent / target if target else page).read_text()
        if place not in map(anchor, HEADING.findall(text)):
            missing.append(f"{target}#{place}")
    assert missing == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= MOST_BYTES
