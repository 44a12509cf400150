"""Compares evaluations: Pass@k with intervals, paired differences to a baseline, and what each method cost.

Plain attempts and exploration trees answer different questions and are never compared with each other. Attempts have
Pass@k; trees have the share of tasks solved within the budget, and what that took.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leafe_verl.core.statistics import ratios
from leafe_verl.evaluation.bootstrap import Estimate, bootstrap
from leafe_verl.evaluation.manifest import Manifest, describe_differences, read_manifest, refuse_mixed_precision
from leafe_verl.evaluation.pass_at_k import common_attempts, ks_up_to, pass_values
from leafe_verl.evaluation.recovery import TaskCounts, count_failures, recovery_differences, recovery_estimates
from leafe_verl.evaluation.report import pass_estimates
from leafe_verl.evaluation.results import read_evaluation, recovery_counts, successes_by_task, total_counts
from leafe_verl.evaluation.summary import lost_steps, read_metrics

TRAINING = {"environment steps": "leafe/environment_steps", "sampled tokens": "leafe/sampled_tokens"}
"""Label -> metric that is summed over the steps of a training run, for what training spent."""
EVALUATION_COSTS = {"environment steps": "environment_steps", "sampled tokens": "sampled_tokens"}
"""Label -> count of core.statistics, for what an evaluation spent."""
SOLVED = [1]
"""The only k for trees: Pass@1 is the share of tasks with a success in their tree."""


@dataclass(frozen=True)
class EvaluationRun:
    """The results of one evaluation."""

    name: str
    manifest: Manifest
    results: Mapping[str, Sequence[bool]]
    """Task key -> whether each scored attempt, or tree, succeeded."""
    counts: Mapping[str, int]
    """Counts of core.statistics, summed over all trees."""
    tasks: int
    """Number of tasks with any attempt, scored or not."""
    recovery: TaskCounts
    """Task key -> counts of core.recovery_figures; only tasks with a scored root."""
    earlier: int
    """Number of trees that an earlier version wrote, without what recovery is counted from."""

    @property
    def attempts(self) -> int:
        """Number of scored attempts that nine in ten tasks have. A few unscored ones must not shorten the curve."""
        return common_attempts(self.results)

    @property
    def spent(self) -> dict[str, float]:
        """Average environment steps and sampled tokens of an attempt, or of a task's tree, including unscored ones."""
        number = self.counts["trees"]
        return {label: self.counts[key] / number for label, key in EVALUATION_COSTS.items()}


@dataclass(frozen=True)
class EvaluationComparison:
    """The comparison of evaluations of one kind."""

    kind: str
    """`attempts` or `trees`."""
    ks: Sequence[int]
    baseline: str
    """Name of the baseline."""
    estimates: Mapping[str, Mapping[int, Estimate]]
    """Name -> k -> Pass@k."""
    curves: Mapping[str, Mapping[int, Estimate]]
    """Name -> k -> Pass@k at every power of two, for the picture; empty for trees."""
    differences: Mapping[str, Mapping[int, Estimate]]
    """Name -> k -> Pass@k minus the baseline's, over the tasks that both have."""
    shared: Mapping[str, int]
    """Name -> number of scored tasks that it shares with the baseline."""
    recovery: Mapping[str, Mapping[str, Estimate]]
    """Name -> figure of evaluation/recovery.py -> its value; a figure that is unknown is absent."""
    recovery_differences: Mapping[str, Mapping[str, Estimate]]
    """Name -> figure -> its value minus the baseline's, over the tasks that both have."""
    failures: Mapping[str, int | None]
    """Name -> number of attempts that went on after a failed turn; None if unknown."""
    spent: Mapping[str, Mapping[str, float]]
    """Name -> average environment steps and sampled tokens of an attempt, or of a task's tree."""
    diagnostics: Mapping[str, Mapping[str, float]]
    """Name -> ratios of core/statistics.py; empty for plain attempts."""
    notes: Sequence[str]
    """What a reader must know, in sentences without a full stop."""


def read_run(name: str, store: Path) -> EvaluationRun:
    """Read one evaluation. Raises ValueError if the folder is not an evaluation or holds no scored attempt."""
    manifest = read_manifest(store)
    if manifest is None:
        raise ValueError(f"{name}: no evaluation in {store}; expected the --out of leafe-verl evaluate")
    trees = read_evaluation(store)
    results = successes_by_task(trees)
    if not results:
        raise ValueError(f"{name}: {store} holds no scored attempt; run leafe-verl evaluate on it again")
    return EvaluationRun(
        name,
        manifest,
        results,
        total_counts(trees),
        tasks=len({tree.task_key for tree in trees}),
        recovery=recovery_counts(trees),
        earlier=sum(tree.plain_attempts is None for tree in trees),
    )


def compare_runs(runs: Sequence[EvaluationRun], baseline: str | None, ks: Sequence[int] | None) -> EvaluationComparison:
    """Compare evaluations of one kind. The first is the baseline if `baseline` names none of them.

    Raises ValueError for a k beyond what the attempts allow, for one that shares no task with the baseline, and for
    evaluations that were computed in different precisions.
    """
    refuse_mixed_precision({run.name: run.manifest for run in runs})
    base = next((run for run in runs if run.name == baseline), runs[0])
    explores = base.manifest.explores
    chosen = SOLVED if explores else _checked_ks(runs, ks)
    others = [run for run in runs if run is not base]
    return EvaluationComparison(
        kind="trees" if explores else "attempts",
        ks=chosen,
        baseline=base.name,
        estimates={run.name: pass_estimates(run.results, chosen) for run in runs},
        curves={} if explores else {run.name: pass_estimates(run.results, ks_up_to(run.attempts)) for run in runs},
        differences={run.name: _differences(run, base, chosen) for run in others},
        shared={run.name: len(run.results.keys() & base.results.keys()) for run in others},
        recovery={run.name: recovery_estimates(run.recovery) for run in runs},
        recovery_differences={run.name: recovery_differences(run.recovery, base.recovery) for run in others},
        failures={run.name: count_failures(run.recovery) for run in runs},
        spent={run.name: run.spent for run in runs},
        diagnostics={run.name: ratios(run.counts) for run in runs if run.manifest.explores},
        notes=[note for run in runs for note in _notes(run, base, chosen)],
    )


def training_cost(runs: Sequence[str]) -> dict[str, float]:
    """Return what a method's training runs spent together. Each is a RUN_DIR, or RUN_DIR@N for its first N steps.

    Raises ValueError if the metrics do not hold these counts.
    """
    costs = [_run_cost(run) for run in runs]
    return {label: sum(cost[label] for cost in costs) for label in TRAINING}


def _run_cost(run: str) -> dict[str, float]:
    run_dir, _, last = run.rpartition("@") if re.search(r"@\d+$", run) else (run, "", "")
    metrics = read_metrics(Path(run_dir))
    if lost := lost_steps(metrics, int(last) if last else None):
        raise ValueError(
            f"{run_dir} has no metrics of steps {', '.join(map(str, lost))}, so that what it spent is unknown: a run "
            "that is killed between a checkpoint and its metrics goes on behind that step; give RUN_DIR@N for the "
            "steps before"
        )
    # Step 0 is a validation.
    steps = [values for step, values in metrics.items() if 0 < step <= int(last or step)]
    missing = [key for key in TRAINING.values() if not any(key in values for values in steps)]
    if missing:
        raise ValueError(f"the metrics in {run_dir} lack {', '.join(missing)}; they are of an earlier version")
    return {label: sum(values.get(key, 0) for values in steps) for label, key in TRAINING.items()}


def _checked_ks(runs: Sequence[EvaluationRun], ks: Sequence[int] | None) -> list[int]:
    """Return the requested ks, or 1, 2, 4, ... up to what every evaluation has."""
    if not ks:
        return ks_up_to(min(run.attempts for run in runs))
    for run in runs:
        most = max(map(len, run.results.values()))
        if max(ks) > most:
            raise ValueError(
                f"--k {max(ks)}: {run.name} has {most} scored attempts of a task at most; choose a smaller k, or go "
                f"on with leafe-verl evaluate --attempts {max(ks)}"
            )
    return sorted(set(ks))


def _differences(run: EvaluationRun, base: EvaluationRun, ks: Sequence[int]) -> dict[int, Estimate]:
    """Return k -> Pass@k minus the baseline's, averaged over shared tasks. Both sides resample the same tasks."""
    if not run.results.keys() & base.results.keys():
        raise ValueError(f"{run.name} and {base.name} share no task; evaluate them on the same --tasks")
    found = {}
    for k in ks:
        ours, theirs = pass_values(run.results, k), pass_values(base.results, k)
        if shared := sorted(ours.keys() & theirs.keys()):
            found[k] = bootstrap([ours[key] - theirs[key] for key in shared])
    return found


def _notes(run: EvaluationRun, base: EvaluationRun, ks: Sequence[int]) -> list[str]:
    """Return what a reader must know before comparing."""
    notes = [*describe_differences(run.name, run.manifest, base.name, base.manifest)]
    unscored = run.counts["attempts"] - run.counts["attempts_scored"]
    if unscored:
        notes.append(f"{run.name}: {unscored} unscored attempts are left out")
    if run.earlier:
        notes.append(f"{run.name}: {run.earlier} trees of an earlier version are not in the figures of recovery")
    scored = len(run.results)
    if scored < run.tasks:
        notes.append(f"{run.name}: {run.tasks - scored} of {run.tasks} tasks have no scored attempt and are left out")
    for k in ks:
        enough = len(pass_values(run.results, k))
        if enough < scored:
            notes.append(f"{run.name}: Pass@{k} is over the {enough} of {scored} tasks with {k} scored attempts")
    return notes
