"""Evaluations side by side: Pass@k with intervals, paired differences against a baseline, what each method cost.

Plain attempts and exploration trees answer different questions and are never compared with each other: for attempts
there is Pass@k, for trees the share of tasks solved within the budget and what it took.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leafe_verl.core.statistics import ratios
from leafe_verl.evaluation.attempts import read_records, results_of, total_counts
from leafe_verl.evaluation.bootstrap import Estimate, bootstrap
from leafe_verl.evaluation.manifest import Manifest, read_manifest
from leafe_verl.evaluation.pass_at_k import ks_up_to
from leafe_verl.evaluation.report import pass_estimates, pass_values
from leafe_verl.evaluation.summary import read_metrics

TRAINING = {"environment steps": "leafe/environment_steps", "sampled tokens": "leafe/sampled_tokens"}
"""What a training run spent, by the name of the metric that is summed over its steps."""
SPENT = {"environment steps": "environment_steps", "sampled tokens": "sampled_tokens"}
"""What an evaluation spent, by the name of the count."""
SOLVED = [1]
"""Pass@1 of trees: the share of tasks with a success in their tree."""


@dataclass(frozen=True)
class Run:
    """One evaluation."""

    name: str
    manifest: Manifest
    results: Mapping[str, Sequence[bool]]
    """Task key -> whether each scored attempt, or tree, succeeded."""
    counts: Mapping[str, int]
    tasks: int
    """With any attempt, scored or not."""

    @property
    def attempts(self) -> int:
        """Scored attempts that nine in ten tasks have: a few unscored ones must not cut the curve short."""
        return sorted(map(len, self.results.values()))[len(self.results) // 10]

    @property
    def spent(self) -> dict[str, float]:
        """Environment steps and sampled tokens of an attempt, or of a task's tree, on average; unscored ones count."""
        number = self.counts["trees"]
        return {label: self.counts[key] / number for label, key in SPENT.items()}


@dataclass(frozen=True)
class Comparison:
    """Everything that is written, of one kind of run."""

    kind: str
    """`attempts` or `trees`."""
    ks: Sequence[int]
    baseline: str
    estimates: Mapping[str, Mapping[int, Estimate]]
    """Run -> k -> Pass@k."""
    curves: Mapping[str, Mapping[int, Estimate]]
    """The same at every power of two, for the picture; empty for trees."""
    differences: Mapping[str, Mapping[int, Estimate]]
    """Run -> k -> Pass@k minus the baseline's, over the tasks that both have."""
    shared: Mapping[str, int]
    """Run -> number of scored tasks that it shares with the baseline."""
    spent: Mapping[str, Mapping[str, float]]
    """Run -> environment steps and sampled tokens of an attempt, or of a task's tree, on average."""
    diagnostics: Mapping[str, Mapping[str, float]]
    """Of trees: run -> shares of what was scored (core/statistics.py)."""
    notes: Sequence[str]


def read_run(name: str, store: Path) -> Run:
    """Read one evaluation. Raises ValueError for a folder that is none, or that holds no scored attempt."""
    manifest = read_manifest(store)
    if manifest is None:
        raise ValueError(f"{name}: no evaluation in {store}; expected the --out of leafe-verl evaluate")
    records = read_records(store)
    results = results_of(records)
    if not results:
        raise ValueError(f"{name}: {store} holds no scored attempt; run leafe-verl evaluate on it again")
    return Run(name, manifest, results, total_counts(records), len({record.key for record in records}))


def compare_runs(runs: Sequence[Run], baseline: str | None, ks: Sequence[int] | None) -> Comparison:
    """Compare runs of one kind; the first is the baseline when `baseline` names none of them.

    Raises ValueError for a k beyond what the attempts allow, and for a run that shares no task with the baseline.
    """
    base = next((run for run in runs if run.name == baseline), runs[0])
    explores = base.manifest.explores
    chosen = SOLVED if explores else _checked_ks(runs, ks)
    differences, shared = {}, {}
    for run in runs:
        if run is not base:
            differences[run.name] = _differences(run, base, chosen)
            shared[run.name] = len(run.results.keys() & base.results.keys())
    return Comparison(
        kind="trees" if explores else "attempts",
        ks=chosen,
        baseline=base.name,
        estimates={run.name: pass_estimates(run.results, chosen) for run in runs},
        curves={} if explores else {run.name: pass_estimates(run.results, ks_up_to(run.attempts)) for run in runs},
        differences=differences,
        shared=shared,
        spent={run.name: run.spent for run in runs},
        diagnostics={run.name: ratios(run.counts) for run in runs if run.manifest.explores},
        notes=[note for run in runs for note in _notes(run, base, chosen)],
    )


def training_cost(runs: Sequence[str]) -> dict[str, float]:
    """Sum what a method's training runs spent, each a RUN_DIR, or RUN_DIR@N for its first N steps.

    Raises ValueError when it was not counted.
    """
    costs = [_cost_of_one(run) for run in runs]
    return {label: sum(cost[label] for cost in costs) for label in TRAINING}


def _cost_of_one(run: str) -> dict[str, float]:
    run_dir, _, last = run.rpartition("@") if re.search(r"@\d+$", run) else (run, "", "")
    # Step 0 is a validation.
    steps = [values for step, values in read_metrics(Path(run_dir)).items() if 0 < step <= int(last or step)]
    missing = [key for key in TRAINING.values() if not any(key in values for values in steps)]
    if missing:
        raise ValueError(f"the metrics in {run_dir} lack {', '.join(missing)}; they are of an earlier version")
    return {label: sum(values.get(key, 0) for values in steps) for label, key in TRAINING.items()}


def _checked_ks(runs: Sequence[Run], ks: Sequence[int] | None) -> list[int]:
    """The ks asked for, or 1, 2, 4, ... up to what every run has."""
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


def _differences(run: Run, base: Run, ks: Sequence[int]) -> dict[int, Estimate]:
    """k -> mean over shared tasks of this run's Pass@k minus the baseline's; one resampling draws tasks for both."""
    if not run.results.keys() & base.results.keys():
        raise ValueError(f"{run.name} and {base.name} share no task; evaluate them on the same --tasks")
    found = {}
    for k in ks:
        ours, theirs = pass_values(run.results, k), pass_values(base.results, k)
        if shared := sorted(ours.keys() & theirs.keys()):
            found[k] = bootstrap([ours[key] - theirs[key] for key in shared])
    return found


def _notes(run: Run, base: Run, ks: Sequence[int]) -> list[str]:
    """What a reader must know before comparing."""
    notes = []
    own = [d for d in run.manifest.differences(base.manifest) if not d.startswith(("model ", "leafe.playbook"))]
    if own:
        notes.append(f"{run.name} was evaluated differently from {base.name}: {'; '.join(own)}")
    unscored = run.counts["attempts"] - run.counts["attempts_scored"]
    if unscored:
        notes.append(f"{run.name}: {unscored} unscored attempts are left out")
    scored = len(run.results)
    if scored < run.tasks:
        notes.append(f"{run.name}: {run.tasks - scored} of {run.tasks} tasks have no scored attempt and are left out")
    for k in ks:
        enough = len(pass_values(run.results, k))
        if enough < scored:
            notes.append(f"{run.name}: Pass@{k} is over the {enough} of {scored} tasks with {k} scored attempts")
    return notes
