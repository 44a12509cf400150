"""The levels of quality that trainings end at, and what each spends until it is there; see time_to_quality.py."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leafe_verl.evaluation.summary import read_metrics
from leafe_verl.evaluation.validations import Change, Validation, estimate_changes, read_validations

LEAFE, GRPO = "LEAFE", "verl's GRPO"
COSTS = ("minutes", "environment steps", "sampled tokens")


@dataclass(frozen=True)
class Point:
    """One validation, and what training had cost by then."""

    costs: Mapping[str, float]
    """Those of `COSTS`."""
    validation: Validation


@dataclass(frozen=True)
class Training:
    """One run of a recipe."""

    contestant: str
    rate: str
    seed: int
    points: Sequence[Point]
    """Its validations, the one before training first."""
    score: float = 0.0
    """Pass@1 at its end on the tasks that rates are chosen by."""

    @property
    def changes(self) -> Mapping[str, Change | None]:
        """Figure -> its change from the start to the end."""
        return estimate_changes(self.points[0].validation, self.points[-1].validation)

    def reaches(self, figure: str, level: float) -> Point | None:
        """Return the first validation at which a figure is at least at a level; None: none is."""
        for point in self.points[1:]:
            change = estimate_changes(self.points[0].validation, point.validation).get(figure)
            if change and change.last >= level:
                return point
        return None


def read_points(folder: Path) -> list[Point]:
    """Read the validations of a run, and what its training had cost by each, without validations and checkpoints."""
    metrics = read_metrics(folder)

    def spent(name: str, until: int) -> float:
        return sum(values.get(name, 0.0) for step, values in metrics.items() if 0 < step <= until)

    def costs(step: int) -> list[float]:
        counted = (spent(f"leafe/{name}", step) for name in ("environment_steps", "sampled_tokens"))
        return [(spent("timing_s/step", step) - spent("timing_s/save_checkpoint", step)) / 60, *counted]

    validations = read_validations(folder)
    return [Point(dict(zip(COSTS, costs(step), strict=True)), each) for step, each in validations.items()]


def choose_rate(trainings: Sequence[Training], contestant: str) -> dict[int, Training]:
    """Return seed -> the contestant's run with the rate whose score, averaged over seeds, is highest."""
    by_rate: dict[str, list[Training]] = {}
    for training in trainings:
        if training.contestant == contestant:
            by_rate.setdefault(training.rate, []).append(training)
    best = max(by_rate.values(), key=lambda runs: statistics.mean(run.score for run in runs))
    return {run.seed: run for run in best}


def compare(ours: Training, theirs: Training) -> Iterator[list[str]]:
    """Yield a row for each level that a contestant ends at: what either spends until then, and a dash for never."""
    for owner, figure, level in levels(ours, theirs):
        points = [run.reaches(figure, level) for run in (ours, theirs)]
        costs = [f"{point.costs[cost]:.4g}" if point else "–" for cost in COSTS for point in points]
        yield [f"{figure} {100 * level:.1f} %, {owner}'s last", str(ours.seed), *costs]


def levels(*trainings: Training) -> Iterator[tuple[str, str, float]]:
    """Yield contestant, figure and value of what each has at its end, above its start beyond chance."""
    for training in trainings:
        for figure, change in training.changes.items():
            if change and change.difference.low > 0:
                yield training.contestant, figure, change.last
