"""Small stores on disk, of trees grown by the scripted policy."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fakes import ScriptedPolicy, Task, experience_in, grow, observation_in, reflection, wandering
from leafe_verl.core import ExplorationTree
from leafe_verl.trees import Provenance, TreeWriter

DAWN = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


def rescued(key: str = "corridor-3", experience: str = "do not jump") -> ExplorationTree:
    """R J R R into the pit; then, rolled back to step 2 with an experience: R R to the end."""

    def act(messages):
        if experience_in(messages) is None:
            return "J" if observation_in(messages) == "1" else "R"
        return "R"

    task = Task(key, "Walk to the end.", "corridor", {"goal": 3})
    return grow(ScriptedPolicy(act, {4: reflection(2, experience)}), task=task, budget={"depth": 1})


def wandered(seed: int, **settings: Any) -> ExplorationTree:
    """A tree of many shapes: branches of depth 3, cut actions, fallbacks, and for odd seeds unscored attempts."""
    settings = {"budget": {"attempts": 14, "depth": 3}, "reflection": {"interval": 2}, **settings}
    return grow(wandering(seed, window=100 if seed % 2 else None), roots=2, **settings)


def provenance(step: int | None = 1, hours: float = 0, **changes: Any) -> Provenance:
    given = {"run": "first", "seed": 0, "model": "tiny", "tokenizer": "characters", **changes}
    return Provenance(
        step=step,
        weight_version_min=0,
        weight_version_max=step,
        collected_at=DAWN + timedelta(hours=hours),
        **given,
    )


def write(store: Path, *trees: tuple[ExplorationTree, Provenance]) -> Path:
    """Write a file of its own, as one process does, and return it."""
    before = set(store.glob("*.arrow"))
    with TreeWriter(store) as writer:
        for tree, where_from in trees:
            writer.append(tree, where_from)
    (path,) = set(store.glob("*.arrow")) - before
    return path
