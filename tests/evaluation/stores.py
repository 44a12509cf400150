"""Small evaluations on disk, written as leafe-verl evaluate writes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from fakes import turn
from leafe_verl.core import Attempt, Branch, ExplorationTree, History, Outcome, Reflection, StepRecord, Task
from leafe_verl.core.statistics import count
from leafe_verl.evaluation.manifest import Manifest, write_manifest
from leafe_verl.trees import Provenance, TreeWriter

MANIFEST = Manifest(
    model="base",
    sources=("tasks.jsonl",),
    tasks="3, sha256 0",
    loop="episode",
    sampling={"temperature": 0.6, "top_p": 1.0},
    horizon=4,
    window=2048,
    leafe={"generation": {"max_tokens": 512}, "seed": 0},
    attempts=4,
)
OUTCOMES = {"+": Outcome.SUCCESS, "-": Outcome.FAILURE, "h": Outcome.HORIZON, "?": Outcome.ENVIRONMENT_FAILURE}
"""One character for each attempt of a store."""


def task(key: str) -> Task:
    return Task(key, f"Do {key}.", "corridor")


def attempt(outcome: Outcome, branch: Branch | None = None, text: str = "go") -> Attempt:
    step = StepRecord(History((1,), ({"role": "user", "content": "Go."},)), turn(text), "seen", 0.5, False, None)
    return Attempt(branch, (step,), outcome, None if outcome.scored else "it broke")


def append(writer: TreeWriter, tree: ExplorationTree) -> None:
    writer.append(tree, Provenance(run="base", seed=0, has_tokens=False), count(tree, []))


def write_store(store: Path, tasks: Mapping[str, str], **manifest: object) -> Path:
    """`tasks`: key -> outcomes, such as {"a": "+-?"}; `manifest`: fields that differ from MANIFEST's."""
    write_manifest(store, dataclasses.replace(MANIFEST, **manifest))
    writer = TreeWriter(store)
    for key, outcomes in tasks.items():
        for outcome in outcomes:
            tree = ExplorationTree(task(key))
            tree.add(attempt(OUTCOMES[outcome]))
            append(writer, tree)
    return store


def judged(turns: str) -> Attempt:
    """An attempt of which every turn is judged. `turns` are its actions of a letter each, and its outcome: "ab+"."""
    *actions, end = turns
    opening = History((1,), ({"role": "user", "content": "Go."},))
    steps = [StepRecord(opening, turn(action), "seen", 0.0, True, None, failed=True) for action in actions]
    if end == "+":
        steps[-1] = dataclasses.replace(steps[-1], error=False, failed=False)
    outcome = OUTCOMES[end]
    return Attempt(None, tuple(steps), outcome, None if outcome.scored else "it broke")


def write_judged(store: Path, tasks: Mapping[str, Sequence[str]], **manifest: object) -> Path:
    """`tasks`: key -> attempts as `judged` takes them, such as {"a": ["a+", "ab+", "aah"]}."""
    write_manifest(store, dataclasses.replace(MANIFEST, **manifest))
    writer = TreeWriter(store)
    for key, attempts in tasks.items():
        for turns in attempts:
            tree = ExplorationTree(task(key))
            tree.add(judged(turns))
            append(writer, tree)
    return store


def make_old(store: Path) -> Path:
    """Take from a store the columns that evaluations of earlier versions lack."""
    for path in store.glob("trees-*.arrow"):
        table = pa.ipc.open_stream(path.read_bytes()).read_all().drop_columns(["plain_attempts"])
        with pa.ipc.new_stream(str(path), table.schema) as stream:
            stream.write_table(table)
    return store


def write_trees(store: Path, tasks: Mapping[str, Sequence[str]], **manifest: object) -> Path:
    """`tasks`: key -> outcomes of the one tree's root and of the branches from its first step."""
    write_manifest(store, dataclasses.replace(MANIFEST, **{"loop": "explore", **manifest}))
    writer = TreeWriter(store)
    for key, outcomes in tasks.items():
        tree = ExplorationTree(task(key))
        reflection = Reflection(1, "Turn left.", parsed=True, text="{}", num_tokens=3)
        for index, outcome in enumerate(outcomes):
            tree.add(attempt(OUTCOMES[outcome], Branch(0, 1, 1, reflection) if index else None))
            if index:
                tree.reflections.append((0, reflection))
        append(writer, tree)
    return store
