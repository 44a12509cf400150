"""Finds the failed histories that `leafe-verl evaluate --from` goes on from: kept ones, or newly drawn ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from leafe_verl.core import Task
from leafe_verl.environments import environment_class
from leafe_verl.evaluation.histories import (
    FOLDER,
    DrawnHistory,
    draw_histories,
    find_store,
    fingerprint_histories,
    read_histories,
    write_histories,
)
from leafe_verl.evaluation.manifest import read_manifest


@dataclass(frozen=True)
class GivenRequest:
    """The verb's arguments about given histories."""

    source: Path
    """Folder of an evaluation, RUN_DIR or tree store."""
    turn: int
    """The failed turn that the histories end with, counted from 1."""
    per_task: int
    """Maximum number of histories of a task."""
    max_tasks: int | None
    """Maximum number of tasks; None: all."""


@dataclass(frozen=True)
class GivenHistories:
    """The histories of one evaluation."""

    drawn: Sequence[DrawnHistory]
    manifest: Mapping[str, Any]
    """`Manifest.given`."""

    @property
    def keys(self) -> list[str]:
        return [each.history.key for each in self.drawn]

    @property
    def tasks(self) -> list[Task]:
        """The tasks of the histories, each once."""
        return list({each.history.task.key: each.history.task for each in self.drawn}.values())

    def keep(self, out: Path) -> None:
        """Write the histories into the folder of the evaluation unless it holds those of its manifest."""
        if read_manifest(out) is None or not (out / FOLDER).is_dir():
            out.mkdir(parents=True, exist_ok=True)
            write_histories(out, self.drawn)


def find_histories(
    request: GivenRequest, out: Path, config: DictConfig, task_keys: Collection[str] | None
) -> GivenHistories:
    """Return the histories that the evaluation in `out` began with, or draw new ones from the store.

    An evaluation that goes on keeps its histories, also where its store has grown since. `task_keys` restricts the
    tasks; None: all. Raises ValueError if there is no history, or none that could go on with these settings.
    """
    source = request.source.expanduser().resolve()
    asked: dict[str, Any] = {"turn": request.turn, "per_task": request.per_task, "max_tasks": request.max_tasks}
    asked |= {"from": str(source), "seed": config.leafe.seed}
    present = read_manifest(out)
    if present and present.given and asked.items() <= present.given.items() and (out / FOLDER).is_dir():
        drawn = read_histories(out / FOLDER)
    else:
        drawn = draw_histories(find_store(source, "--from"), request.turn, request.per_task, config.leafe.seed)
    drawn = _of_tasks(drawn, source, task_keys, request.max_tasks)
    _require_environment(drawn, source, config.leafe.environment.name)
    return GivenHistories(drawn, {**asked, "fingerprint": fingerprint_histories(drawn)})


def require_room(given: GivenHistories, horizon: int) -> None:
    """Raise ValueError if an attempt would end before its first own turn."""
    if horizon <= given.manifest["turn"]:
        raise ValueError(
            f"the horizon is {horizon}, and the given histories end with turn {given.manifest['turn']}; expected a "
            "longer leafe.environment.horizon or an earlier --turn"
        )


def _of_tasks(
    drawn: Sequence[DrawnHistory], source: Path, task_keys: Collection[str] | None, max_tasks: int | None
) -> list[DrawnHistory]:
    """Return the histories of the named tasks, and of the first `max_tasks` of these."""
    keys = {each.history.task.key for each in drawn if task_keys is None or each.history.task.key in task_keys}
    if not keys:
        raise ValueError(f"--from {source}: none of the tasks in --tasks has a failed history there")
    kept = set(sorted(keys)[:max_tasks])
    return [each for each in drawn if each.history.task.key in kept]


def _require_environment(drawn: Sequence[DrawnHistory], source: Path, name: str) -> None:
    theirs = sorted({each.history.task.environment for each in drawn})
    if any(environment_class(each) is not environment_class(name) for each in theirs):
        raise ValueError(
            f"--from {source} holds tasks of {', '.join(theirs)}, and leafe.environment.name is {name!r}; add "
            f"environment={theirs[0]}, or leafe.environment.name={theirs[0]} for an environment of your own"
        )
