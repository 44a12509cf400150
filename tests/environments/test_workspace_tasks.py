"""Workspace's embedded tasks: seeded defects of clean packages, and an expert that applies the reference patches."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.scenarios import edit
from leafe_verl.environments.workspace.environment import Workspace
from leafe_verl.environments.workspace.generate import HELD_OUT, PACKAGES, make_rows, read_package
from leafe_verl.environments.workspace.mutations import KINDS, find_defects
from leafe_verl.sandbox import default_pool, judge

DATA = Path(__file__).parents[2] / "leafe_verl" / "data"
HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,\d+)? @@")


def rows(split: str) -> list[dict[str, Any]]:
    lines = (DATA / f"embedded_workspace_{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


TRAIN, HELDOUT = rows("train"), rows("heldout")


def edits_of(row: dict[str, Any]) -> Iterator[str]:
    """Yield the edits that a patch consists of, from the last."""
    header, *hunks = re.split(r"^(?=@@ )", row["patch"], flags=re.MULTILINE)
    path = header.split("+++ b/")[1].strip()
    old = row["files"][path].splitlines()
    for hunk in reversed(hunks):
        place = HUNK.match(hunk)
        assert place is not None
        first, count = int(place[1]), int(place[2] or 1)
        new = [line[1:] for line in hunk.splitlines()[1:] if line.startswith("+")]
        if count == 0:  # an insertion below a line, which is written anew
            new, count = [old[first - 1], *new], 1
        yield edit(f"{path} {first}-{first + count - 1}", "\n".join(new))


@pytest.mark.parametrize("row", [*TRAIN, *HELDOUT], ids=lambda row: row["task_id"])
def test_the_reference_patch_solves_the_task(row: dict[str, Any]) -> None:
    environment = Workspace()
    environment.reset(Workspace.task(row), 0)
    first = environment.step("Action: test")
    assert (
        not first.info["success"] and first.info["passed"] == len(row["pass_to_pass"]) and "FAILED" in first.observation
    )
    for answer in edits_of(row):
        step = environment.step(answer)
        assert not step.info["error"], step.observation
    last = environment.step("Action: test")
    assert last.terminated and last.info["success"] and first.reward + last.reward == 1.0


def test_there_are_tasks_of_every_kind_and_the_packages_are_disjoint() -> None:
    assert len(TRAIN) >= 60 and len(HELDOUT) >= 20
    packages = [{row["task_id"].rpartition("-")[0] for row in split} for split in (TRAIN, HELDOUT)]
    assert packages == [set(PACKAGES) - set(HELD_OUT), set(HELD_OUT)]
    assert {row["kind"] for row in TRAIN} == set(KINDS)
    everything = [json.dumps(row["files"], sort_keys=True) for row in [*TRAIN, *HELDOUT]]
    assert len(set(everything)) == len(everything)


def test_no_repository_shows_its_hidden_tests() -> None:
    for row in [*TRAIN, *HELDOUT]:
        shown = "".join(each for each in row["files"].values() if isinstance(each, str))
        assert not [test for test in [*row["fail_to_pass"], *row["pass_to_pass"]] if f"    {test}\n" in shown]


@pytest.mark.parametrize("name", PACKAGES)
def test_without_a_defect_all_tests_pass(name: str) -> None:
    package = read_package(name)
    verdict = judge(package.imports, package.tests, "", default_pool(with_folder=True), files=package.files.files())
    assert verdict.all_passed and len(verdict.tests) >= 25


def test_the_generator_makes_the_same_rows_again() -> None:
    made = list(make_rows("league", 0, default_pool(with_folder=True), number=3))
    assert made == [row for row in HELDOUT if row["task_id"].startswith("league-")][:3]


SOURCE = """\
def f(first, second):
    # A comment.
    total = 0
    if first < 3:
        return min(first, second) - 1
    total += f(second, first)
    return f"{first}" if first else total
"""


def test_every_kind_of_defect_is_found_and_leaves_the_rest_as_it_is() -> None:
    defects = list(find_defects(SOURCE))
    assert {defect.kind for defect in defects} == set(KINDS)
    for defect in defects:
        ast.parse(defect.source)
        assert "# A comment." in defect.source and defect.source != SOURCE
    changed = {line for defect in defects for line in set(defect.source.splitlines()) - set(SOURCE.splitlines())}
    assert {
        "    if first <= 3:",
        "    if first < 4:",
        "        return max(first, second) - 1",
        "        return min(first, second) + 1",
        "        return min(second, second) - 1",
        "    total -= f(second, first)",
        "    total += f(first, second)",
        "    return total",
    } <= changed
    assert [d for d in defects if d.kind == "dropped_statement" and "total +=" not in d.source]
    assert not [line for line in changed if "{second}" in line], "f-strings are left alone"


def test_a_branch_that_is_alone_in_its_block_becomes_pass() -> None:
    (found,) = [d for d in find_defects("def f(x):\n    if x:\n        g(x)\n") if d.kind == "dropped_branch"]
    assert found.source == "def f(x):\n    pass\n"
