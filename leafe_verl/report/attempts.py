"""Trees from an evaluation's store (evaluation/attempts.py), which holds neither prompts nor tokens.

The plain attempts of one task are shown as the roots of one tree.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from leafe_verl.core import Attempt, Branch, ExplorationTree, History, Message, Outcome, Reflection, StepRecord, Task
from leafe_verl.core.policy import Turn
from leafe_verl.evaluation.attempts import PATTERN
from leafe_verl.report.sources import ReportedTree

Place = tuple[Path, int]
"""A file of the store, and the byte at which a line begins."""


def attempt_trees(store: Path, *, explores: bool) -> Iterator[ReportedTree]:
    """Read the store's trees, one for each task, or one for each line where the lines are trees already.

    Lines are read twice, so that memory holds one task's at a time.
    """
    places: dict[tuple[str, int], list[Place]] = {}
    for number, (key, place) in enumerate(_places(store)):
        places.setdefault((key, number if explores else 0), []).append(place)
    for group in places.values():
        yield ReportedTree(_tree([_line(place) for place in group]), verbatim=False)


def _places(store: Path) -> Iterator[tuple[str, Place]]:
    for path in sorted(store.glob(PATTERN)):
        with path.open("rb") as file:
            offset = 0
            for line in file:
                # A killed process leaves its last line without an end; read_records warns of it.
                if line.endswith(b"\n"):
                    yield json.loads(line)["key"], (path, offset)
                offset += len(line)


def _line(place: Place) -> Mapping[str, Any]:
    path, offset = place
    with path.open("rb") as file:
        file.seek(offset)
        line: Mapping[str, Any] = json.loads(file.readline())
    return line


def _tree(lines: list[Mapping[str, Any]]) -> ExplorationTree:
    """One tree of all attempts of the lines."""
    first = lines[0]
    tree = ExplorationTree(Task(first["key"], "", first["environment"]))
    for line in lines:
        before = len(tree.attempts)
        tree.reflections += [(before + each["attempt"], _reflection(each)) for each in line["reflections"]]
        for attempt in line["attempts"]:
            _add(tree, attempt, before)
    return tree


def _add(tree: ExplorationTree, line: Mapping[str, Any], before: int) -> None:
    branch = _branch(tree, line["branch"], before) if line["branch"] else None
    path = tree.path(branch.parent)[: branch.step - 1] if branch else ()
    messages = path[-1].history.messages + _exchange(path[-1]) if path else ()
    steps = []
    for each in line["steps"]:
        action = Turn(each["action"], ())
        steps.append(
            StepRecord(History((), messages), action, each["observation"], each["reward"], each["error"], None)
        )
        messages += _exchange(steps[-1])
    tree.add(Attempt(branch, tuple(steps), Outcome(line["outcome"]), line["error"]))


def _branch(tree: ExplorationTree, line: Mapping[str, Any], before: int) -> Branch:
    parent = before + line["parent"]
    found = [
        reflection
        for attempt, reflection in tree.reflections
        if (attempt, reflection.experience, reflection.parsed) == (parent, line["experience"], line["parsed"])
    ]
    reflection = found[0] if found else Reflection(line["step"], line["experience"], line["parsed"])
    return Branch(parent, line["step"], line["depth"], reflection)


def _reflection(line: Mapping[str, Any]) -> Reflection:
    return Reflection(line["step"], line["experience"], line["parsed"], line["text"], line["tokens"])


def _exchange(step: StepRecord) -> tuple[Message, Message]:
    return {"role": "assistant", "content": step.action.text}, {"role": "user", "content": step.observation}
