"""Runs `leafe-verl compare`: prints a comparison as tables, and writes it as Markdown, JSON and a picture."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from leafe_verl.evaluation.bootstrap import Estimate
from leafe_verl.evaluation.cells import read_cell
from leafe_verl.evaluation.comparison import (
    EVALUATION_COSTS,
    TRAINING,
    EvaluationComparison,
    EvaluationRun,
    compare_runs,
    read_run,
    training_cost,
)
from leafe_verl.evaluation.given import read_given_run
from leafe_verl.evaluation.given_comparison import GivenComparison, compare_given, given_sections
from leafe_verl.evaluation.manifest import read_manifest
from leafe_verl.evaluation.picture import draw_curves, text_curves
from leafe_verl.evaluation.recovery import ABOVE_FRESH, FIGURES, UNKNOWN
from leafe_verl.evaluation.tables import Rows, estimate_cell, markdown_table, percent, text_table


def compare(
    runs: Mapping[str, Path],
    out: Path,
    *,
    baseline: str | None = None,
    ks: Sequence[int] | None = None,
    training: Mapping[str, Sequence[str]] | None = None,
) -> int:
    """Write OUT.md, OUT.json and, for plain attempts, OUT.svg. Print the tables and a chart. Return 0.

    Each of `runs` is the folder of an evaluation, or FILE@CELL (cells.py). If OUT is a folder, the files in it are
    called `comparison`.

    Raises ValueError for evaluations that cannot be compared (comparison.py) and for names that do not match. It also
    raises ValueError, after the other files are written, if the libraries for the picture are missing.
    """
    training, out = training or {}, out / "comparison" if out.is_dir() else out
    unknown = sorted({*training, *([baseline] if baseline else [])} - set(runs))
    if unknown:
        raise ValueError(f"no run is named {', '.join(unknown)}; there are {', '.join(runs)}")
    manifests = {name: read_manifest(store) for name, store in runs.items()}
    given = {name: manifest for name, manifest in manifests.items() if manifest and manifest.given}
    recoveries = [read_given_run(name, runs[name], manifest) for name, manifest in given.items()]
    read = [_read(name, store) for name, store in runs.items() if name not in given]
    kinds = [[run for run in read if run.manifest.explores is explores] for explores in (False, True)]
    comparisons = [compare_runs(kind, baseline, ks) for kind in kinds if kind]
    costs = {name: training_cost(run_dirs) for name, run_dirs in training.items()}
    _write_comparison(out, comparisons, costs, compare_given(recoveries, baseline) if recoveries else None)
    return 0


def _read(name: str, store: Path) -> EvaluationRun:
    return read_cell(name, str(store)) if "@" in store.as_posix() and not store.exists() else read_run(name, store)


def _write_comparison(
    out: Path,
    comparisons: Sequence[EvaluationComparison],
    costs: Mapping[str, Mapping[str, float]],
    given: GivenComparison | None,
) -> None:
    sections = [section for each in comparisons for section in _sections(each)]
    sections += [*(given_sections(given) if given else []), *_cost_sections(costs)]
    notes = [note for each in comparisons for note in each.notes] + [*(given.notes if given else ())]
    curves = next((each.curves for each in comparisons if each.curves), None)
    picture = out.with_name(f"{out.name}.svg") if curves else None
    out.parent.mkdir(parents=True, exist_ok=True)
    values = {"comparisons": [dataclasses.asdict(each) for each in comparisons], "training": costs}
    values |= {"from_same_failures": dataclasses.asdict(given)} if given else {}
    out.with_name(f"{out.name}.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    out.with_name(f"{out.name}.md").write_text(_markdown(sections, notes, picture), encoding="utf-8")
    print("\n\n".join([*(f"{title}\n{text_table(rows)}" for title, rows in sections), *map("note: {}".format, notes)]))
    if curves and picture:
        draw_curves(curves, picture)
        print(f"\n{text_curves(curves)}")
    print(f"\nwritten: {out}.md, .json" + (", .svg" if picture else ""))


def _sections(comparison: EvaluationComparison) -> list[tuple[str, Rows]]:
    """Return the tables of one kind of evaluation, each with its title."""
    trees = comparison.kind == "trees"
    names = {k: "solved" if trees else f"Pass@{k}" for k in comparison.ks}
    title = "Solved within the budget, %" if trees else "Pass@k, %"
    sections: list[tuple[str, Rows]] = [
        (f"{title} (95 % interval over tasks)", _estimate_rows(comparison.estimates, names, sign=False))
    ]
    if comparison.differences:
        shared = ", ".join(f"{name} {number}" for name, number in comparison.shared.items())
        sections.append(
            (
                f"Difference to {comparison.baseline}, points (95 % interval; shared tasks: {shared})",
                _estimate_rows(comparison.differences, names, sign=True),
            )
        )
    sections += _recovery_sections(comparison)
    spent = [("run", *EVALUATION_COSTS)]
    for name, values in comparison.spent.items():
        spent.append((name, *(f"{values[label]:,.1f}" for label in EVALUATION_COSTS)))
    sections.append((f"Spent on {'the tree of a task' if trees else 'an attempt'}, on average", spent))
    return [*sections, *_diagnostic_sections(comparison.diagnostics)]


def _recovery_sections(comparison: EvaluationComparison) -> list[tuple[str, Rows]]:
    """Return the table of recovery, and that of the differences to the baseline."""
    rows = [("run", *FIGURES.values(), "failures")]
    for name, found in comparison.recovery.items():
        failures = comparison.failures[name]
        rows.append((name, *_figure_cells(found, FIGURES), UNKNOWN if failures is None else f"{failures:,}"))
    sections: list[tuple[str, Rows]] = [("Recovery, % (95 % interval over tasks)", rows)]
    if comparison.recovery_differences:
        shown = {figure: label for figure, label in FIGURES.items() if figure != ABOVE_FRESH}
        rows = [("run", *shown.values())]
        rows += [
            (name, *_figure_cells(found, shown, sign=True)) for name, found in comparison.recovery_differences.items()
        ]
        title = f"Recovery, difference to {comparison.baseline}, points (95 % interval over shared tasks)"
        sections.append((title, rows))
    return sections


def _figure_cells(found: Mapping[str, Estimate], figures: Iterable[str], *, sign: bool = False) -> list[str]:
    return [
        estimate_cell(found[figure], sign=sign or figure == ABOVE_FRESH) if figure in found else UNKNOWN
        for figure in figures
    ]


DIAGNOSTICS = {
    "reflection_parsed": "reflections parsed",
    "reflection_agreement": "pairs of reflections that name the same step",
    "branch_improved": "branches that improved",
    "branch_success": "branches that succeeded",
    "branch_success_parsed": "  of parsed reflections",
    "branch_success_fallback": "  of fallbacks",
    **{f"branch_success_depth_{depth}": f"  at depth {depth}" for depth in range(1, 10)},
}
"""Ratio of core.statistics -> label."""


def _diagnostic_sections(diagnostics: Mapping[str, Mapping[str, float]]) -> list[tuple[str, Rows]]:
    found = [key for key in DIAGNOSTICS if any(key in shares for shares in diagnostics.values())]
    if not found:
        return []
    rows = [("share, %", *diagnostics)]
    for key in found:
        cells = (percent(shares[key]) if key in shares else "" for shares in diagnostics.values())
        rows.append((DIAGNOSTICS[key], *cells))
    return [("Reflections and branches", rows)]


def _estimate_rows(
    estimates: Mapping[str, Mapping[int, Estimate]], names: Mapping[int, str], *, sign: bool
) -> list[tuple[str, ...]]:
    rows = [("run", *names.values(), "tasks")]
    for name, found in estimates.items():
        cells = [estimate_cell(found[k], sign=sign) if k in found else "" for k in names]
        rows.append((name, *cells, str(max(estimate.tasks for estimate in found.values())) if found else ""))
    return rows


def _cost_sections(costs: Mapping[str, Mapping[str, float]]) -> list[tuple[str, Rows]]:
    if not costs:
        return []
    rows = [(name, *(f"{value:,.0f}" for value in cost.values())) for name, cost in costs.items()]
    return [("Spent in training", [("run", *TRAINING), *rows])]


def _markdown(sections: Iterable[tuple[str, Rows]], notes: Iterable[str], picture: Path | None) -> str:
    parts = ["# Comparison", *(f"{title}:\n\n{markdown_table(rows)}" for title, rows in sections)]
    parts += [f"Note: {note}." for note in notes]
    if picture:
        parts.append(f"![Pass@k over k]({picture.name})")
    return "\n\n".join(parts) + "\n"
