"""Compares evaluations that go on from the same failed histories: figures, and paired differences over tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leafe_verl.evaluation.bootstrap import Estimate
from leafe_verl.evaluation.given import (
    BEYOND_FRESH,
    FRESH,
    MEASURES,
    GivenRun,
    beyond_fresh,
    describe_divergence,
    describe_histories,
    estimate_measures,
    fresh_estimate,
    shares_by_history,
)
from leafe_verl.evaluation.manifest import describe_differences, refuse_mixed_precision
from leafe_verl.evaluation.recovery import UNKNOWN
from leafe_verl.evaluation.tables import Rows, estimate_cell


@dataclass(frozen=True)
class GivenComparison:
    """The comparison of evaluations from the same failed histories."""

    histories: str
    """Which histories the attempts go on from, in words."""
    baseline: str
    """Name of the baseline."""
    estimates: Mapping[str, Mapping[str, Estimate]]
    """Name -> measure -> share over tasks."""
    fresh: Estimate | None
    """Share of other first turns of the policy that failed which solved these tasks; None if the store does not say."""
    beyond_fresh: Mapping[str, Estimate]
    """Name -> by how much its next turn exceeds such a first turn; empty if the store does not say."""
    differences: Mapping[str, Mapping[str, Estimate]]
    """Name -> measure -> share minus the baseline's, over the histories that both have."""
    shared: Mapping[str, int]
    """Name -> number of scored histories that it shares with the baseline."""
    notes: Sequence[str]
    """What a reader must know, in sentences without a full stop."""


def compare_given(runs: Sequence[GivenRun], baseline: str | None) -> GivenComparison:
    """Compare evaluations from given histories. The first is the baseline if `baseline` names none of them.

    Raises ValueError for evaluations from other histories than the baseline's or in different precisions, and for one
    without a scored attempt.
    """
    refuse_mixed_precision({run.name: run.manifest for run in runs})
    base = next((run for run in runs if run.name == baseline), runs[0])
    found = {run.name: estimate_measures(run) for run in runs}
    for run in runs:
        _require_same_histories(run, base)
        if not found[run.name]:
            raise ValueError(f"{run.name} holds no scored attempt; run leafe-verl evaluate on it again")
    others = [run for run in runs if run is not base]
    beyond = {run.name: estimate for run in runs if (estimate := beyond_fresh(run))}
    return GivenComparison(
        histories=describe_histories(base),
        baseline=base.name,
        estimates=found,
        fresh=fresh_estimate(base),
        beyond_fresh=beyond,
        differences={run.name: _differences(run, base) for run in others},
        shared={run.name: _num_shared(run, base) for run in others},
        notes=[note for run in runs for note in _notes(run, base)],
    )


def given_sections(comparison: GivenComparison) -> list[tuple[str, Rows]]:
    """Return the tables, each with its title."""
    columns = {**MEASURES, **({BEYOND_FRESH: BEYOND_FRESH} if comparison.beyond_fresh else {})}
    rows = [("run", *columns.values(), "tasks")]
    for name, found in comparison.estimates.items():
        cells = [estimate_cell(found[measure]) for measure in MEASURES]
        if comparison.beyond_fresh:
            beyond = comparison.beyond_fresh.get(name)
            cells.append(estimate_cell(beyond, sign=True) if beyond else UNKNOWN)
        rows.append((name, *cells, str(next(iter(found.values())).tasks)))
    if comparison.fresh:
        rows.append((FRESH, estimate_cell(comparison.fresh), *[""] * (len(columns) - 1), str(comparison.fresh.tasks)))
    heading = f"From the same failures, % (95 % interval over tasks): {comparison.histories}"
    return [(heading, rows), *_difference_section(comparison)]


def _difference_section(comparison: GivenComparison) -> list[tuple[str, Rows]]:
    if not comparison.differences:
        return []
    shared = ", ".join(f"{name} {number}" for name, number in comparison.shared.items())
    rows = [("run", *MEASURES.values(), "tasks")]
    for name, found in comparison.differences.items():
        cells = (estimate_cell(found[measure], sign=True) for measure in MEASURES)
        rows.append((name, *cells, str(next(iter(found.values())).tasks)))
    heading = f"From the same failures: difference to {comparison.baseline}, points (95 % interval; shared histories: "
    return [(f"{heading}{shared})", rows)]


def _require_same_histories(run: GivenRun, base: GivenRun) -> None:
    ours, theirs = run.manifest.given or {}, base.manifest.given or {}
    if ours["fingerprint"] != theirs["fingerprint"]:
        raise ValueError(
            f"{run.name} goes on from other failed histories than {base.name}: {ours['fingerprint']} of turn "
            f"{ours['turn']} from {ours['from']}, not {theirs['fingerprint']} of turn {theirs['turn']} from "
            f"{theirs['from']}; evaluate both with the same --from, --turn, --histories and leafe.seed"
        )


def _differences(run: GivenRun, base: GivenRun) -> dict[str, Estimate]:
    """Return each measure minus the baseline's, averaged over the shared histories of a task, then over tasks, each of
    which weighs as many as its failures."""
    if not _num_shared(run, base):
        raise ValueError(f"{run.name} and {base.name} share no scored history; run leafe-verl evaluate on them again")
    found = {}
    for measure in MEASURES:
        ours, theirs = (shares_by_history(each.trees, measure) for each in (run, base))
        means = {}
        for task in ours.keys() & theirs.keys():
            if shared := ours[task].keys() & theirs[task].keys():
                means[task] = sum(ours[task][key] - theirs[task][key] for key in shared) / len(shared)
        found[measure] = base.estimate(means)
    return {measure: estimate for measure, estimate in found.items() if estimate}


def _num_shared(run: GivenRun, base: GivenRun) -> int:
    ours, theirs = ({tree.history_key for tree in each.trees if tree.scored} for each in (run, base))
    return len(ours & theirs)


def _notes(run: GivenRun, base: GivenRun) -> list[str]:
    found = [f"{run.name}: {note}" for note in describe_divergence(run)]
    found += describe_differences(run.name, run.manifest, base.name, base.manifest)
    scored = {tree.history_key for tree in run.trees if tree.scored}
    if len(scored) < len(run.histories):
        missing = len(run.histories) - len(scored)
        found.append(f"{run.name}: {missing} of {len(run.histories)} histories have no scored attempt and are left out")
    return found
