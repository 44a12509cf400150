"""Draws the tasks of a pass by what the store knows of them, `leafe.curriculum`; see core/curriculum.py.

verl 0.9.1 has no hook for samplers. The trainer therefore gives the data loader that verl has made another sampler.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Sampler
from torchdata.stateful_dataloader import StatefulDataLoader

from leafe_verl.core.curriculum import TaskOutcomes, draw_pass, pass_share
from leafe_verl.trees.outcomes import read_outcomes


@dataclass(frozen=True)
class Curriculum:
    """Draws the passes of one training run."""

    floor: float
    """Smallest share of the passes that hold a task."""
    trees: int
    """Newest trees of a task that count."""
    store: str
    """Folder of the trees."""
    run: str
    """Name of the run, as its trees have it."""
    keys: Sequence[str]
    """Keys of the tasks, in the order of the data set."""
    batch: int
    """Tasks of a training step."""
    seed: int

    def draw(self, step: int) -> list[int]:
        """Return the indices of the tasks of the pass that training step `step` begins.

        The store's trees of earlier steps decide, and the seed: the same step draws the same pass after a restart.
        """
        outcomes = read_outcomes(self.store, run=self.run, before=step, latest=self.trees)
        shares = [pass_share(outcomes.get(key, TaskOutcomes()), self.floor) for key in self.keys]
        return draw_pass(shares, self.batch, random.Random(f"{self.seed}:{step}"))


class CurriculumSampler(Sampler[int]):
    """Yields the tasks of a pass, which is drawn when its first task is asked for."""

    def __init__(self, tasks: int, draw: Callable[[], list[int]]) -> None:
        self._tasks, self._draw = tasks, draw

    def __iter__(self) -> Iterator[int]:
        return _Pass(self._draw)

    def __len__(self) -> int:
        """Number of different tasks. A pass may hold fewer."""
        return self._tasks


class _Pass(Iterator[int]):
    """One pass. Its order is part of the data loader's state, and so of a checkpoint."""

    def __init__(self, draw: Callable[[], list[int]]) -> None:
        self._draw = draw
        self._order: list[int] | None = None
        self._taken = 0

    def __next__(self) -> int:
        if self._order is None:
            self._order = self._draw()
        if self._taken == len(self._order):
            raise StopIteration
        self._taken += 1
        return self._order[self._taken - 1]

    def state_dict(self) -> dict[str, Any]:
        return {"order": self._order, "taken": self._taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a saved pass. Where the checkpoint's run had no curriculum, a new pass begins."""
        self._order, self._taken = state.get("order"), state.get("taken", 0)


def with_sampler(loader: StatefulDataLoader, sampler: Sampler[int]) -> StatefulDataLoader:
    """Return a data loader as verl has made it (trainer_base.py: `_init_dataloader`), with another sampler."""
    return StatefulDataLoader(
        dataset=loader.dataset,
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        drop_last=loader.drop_last,
        collate_fn=loader.collate_fn,
        sampler=sampler,
    )
