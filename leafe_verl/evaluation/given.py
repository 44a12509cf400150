"""Figures of an evaluation whose attempts go on from given failed histories: how often the model recovers.

Each history has a share of its scored attempts, each task the mean over its histories, and each figure is the mean over
tasks with its interval. A task weighs as many as its attempts that failed so, see `FirstTurns.failures`. Beside them
stands what another first turn of the policy that made the failures solved on the same tasks: only what lies above it
comes from reading the feedback.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leafe_verl.core import Outcome
from leafe_verl.evaluation.bootstrap import Estimate, Ratio, bootstrap_ratio
from leafe_verl.evaluation.histories import FOLDER, DrawnHistory, read_histories
from leafe_verl.evaluation.manifest import Manifest
from leafe_verl.evaluation.report import collected_rows
from leafe_verl.evaluation.results import EvaluatedTree, read_evaluation
from leafe_verl.evaluation.tables import Rows, percent, percent_interval, points, text_table

NEXT_TURN, HORIZON, REPEATED = "next_turn", "horizon", "repeated"
MEASURES = {
    NEXT_TURN: "solved at the next turn",
    HORIZON: "solved within the horizon",
    REPEATED: "next turn repeats the failed one",
}
"""Measure -> what it is a share of attempts of."""
FRESH = "solved by a fresh first turn of the policy that failed"
BEYOND_FRESH = "next turn above a fresh first turn, points"

ByHistory = Mapping[str, Mapping[str, float]]
"""Task key -> key of a history -> share of the history's scored attempts."""


@dataclass(frozen=True)
class GivenRun:
    """The results of one evaluation from given histories."""

    name: str
    manifest: Manifest
    trees: Sequence[EvaluatedTree]
    histories: Sequence[DrawnHistory]

    @property
    def turn(self) -> int:
        """The failed turn that the histories end with."""
        assert self.manifest.given is not None
        return int(self.manifest.given["turn"])

    @property
    def fresh(self) -> dict[str, float]:
        """Task key -> share of the failed policy's other first turns that solved it; tasks without one are left out.

        A training run has several policies: the mean is that over the histories, each with the policy that failed.
        """
        shares: dict[str, list[float]] = defaultdict(list)
        for drawn in self.histories:
            if (share := drawn.fresh.share) is not None:
                shares[drawn.history.task.key].append(share)
        return {key: _mean(of_task) for key, of_task in shares.items()}

    def estimate(self, values: Mapping[str, float]) -> Estimate | None:
        """Return the mean of values by task, weighted by the task's failures; None if there are none."""
        weights = {drawn.history.task.key: drawn.fresh.failures for drawn in self.histories}
        keys = sorted(values)
        return bootstrap_ratio(Ratio([weights[key] * values[key] for key in keys], [weights[key] for key in keys]))


def read_given_run(name: str, folder: Path, manifest: Manifest) -> GivenRun:
    """Read the evaluation in a folder. It may hold no scored attempt yet."""
    return GivenRun(name, manifest, read_evaluation(folder), read_histories(folder / FOLDER))


def shares_by_history(trees: Iterable[EvaluatedTree], measure: str) -> dict[str, dict[str, float]]:
    """Return the share of each history's scored attempts for which a measure holds, by task and history."""
    held: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for tree in trees:
        if tree.scored and tree.history_key:
            held[tree.task_key][tree.history_key].append(_holds(tree, measure))
    return {
        task: {history: sum(found) / len(found) for history, found in of_task.items()} for task, of_task in held.items()
    }


def task_means(shares: ByHistory) -> dict[str, float]:
    """Return the mean over the histories of each task."""
    return {task: _mean(list(of_task.values())) for task, of_task in shares.items()}


def estimate_measures(run: GivenRun) -> dict[str, Estimate]:
    """Return each measure over tasks; no measure if there is no scored attempt."""
    means = {measure: task_means(shares_by_history(run.trees, measure)) for measure in MEASURES}
    found = {measure: run.estimate(values) for measure, values in means.items()}
    return {measure: estimate for measure, estimate in found.items() if estimate}


def fresh_estimate(run: GivenRun) -> Estimate | None:
    """Return what a fresh first turn solved on the tasks of the scored attempts; None if the store does not say."""
    played = shares_by_history(run.trees, NEXT_TURN)
    return run.estimate({task: share for task, share in run.fresh.items() if task in played})


def beyond_fresh(run: GivenRun) -> Estimate | None:
    """Return the next turn's share minus a fresh first turn's, paired over tasks; None if the store does not say."""
    means = task_means(shares_by_history(run.trees, NEXT_TURN))
    return run.estimate({task: means[task] - share for task, share in run.fresh.items() if task in means})


def figure_rows(run: GivenRun) -> Rows:
    """Return a table with a row for each figure; the heading alone if there is no scored attempt."""
    rows = [("", "%", "95 % interval over tasks", "tasks")]
    found = estimate_measures(run)
    labels = {**MEASURES, HORIZON: f"{MEASURES[HORIZON]} of {run.manifest.horizon} turns"}
    rows += [_row(labels[measure], estimate) for measure, estimate in found.items()]
    if (fresh := fresh_estimate(run)) and (beyond := beyond_fresh(run)):
        rows += [_row(FRESH, fresh), _row(BEYOND_FRESH, beyond, sign=True)]
    return rows


def describe_histories(run: GivenRun) -> str:
    """Return which histories the attempts go on from, in words."""
    tasks = {drawn.history.task.key for drawn in run.histories}
    return f"{len(run.histories)} histories of {len(tasks)} tasks, whose turn {run.turn} has failed"


def describe_divergence(run: GivenRun) -> list[str]:
    """Return what a reader must know of one evaluation."""
    diverged = sum(tree.counts.get(f"outcome/{Outcome.REPLAY_DIVERGENCE.value}", 0) for tree in run.trees)
    if not diverged:
        return []
    return [
        f"{diverged} attempts could not begin, because replaying the given turns showed something else than was "
        "recorded; leafe.environment.options must be those of the store"
    ]


def render_given(run: GivenRun) -> str:
    """Return the table of figures and, below it, the table of what was collected."""
    rows = figure_rows(run)
    heading = f"From the same failures: {describe_histories(run)}"
    parts = [f"{heading}\n\n{text_table(rows)}" if len(rows) > 1 else "no scored attempt yet"]
    replayed = sum(tree.counts.get("replayed_steps", 0) for tree in run.trees)
    played = len({tree.history_key for tree in run.trees})
    collected = [*collected_rows(run.trees), ("histories", f"{played:,}"), ("replayed given steps", f"{replayed:,}")]
    return "\n\n".join([*parts, text_table(collected), *map("note: {}".format, describe_divergence(run))])


def _holds(tree: EvaluatedTree, measure: str) -> bool:
    if measure == HORIZON:
        return tree.solved
    counted = {NEXT_TURN: "given/next_turns_solved", REPEATED: "given/next_turns_repeated"}[measure]
    return bool(tree.counts.get(counted))


def _row(label: str, estimate: Estimate, *, sign: bool = False) -> tuple[str, str, str, str]:
    mean = points(estimate.mean) if sign else percent(estimate.mean)
    return label, mean, percent_interval(estimate.low, estimate.high), str(estimate.tasks)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
