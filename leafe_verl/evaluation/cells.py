"""The results of an evaluation as one line of JSON: small enough to be committed, and still comparable task by task.

`leafe-verl compare` takes such a line as FILE@CELL in place of an evaluation's folder, so that methods that were
evaluated on different machines can be compared after the folders are gone. Sampled text is not kept.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leafe_verl.core.statistics import ratios
from leafe_verl.evaluation.bootstrap import Estimate
from leafe_verl.evaluation.comparison import EvaluationRun, read_run
from leafe_verl.evaluation.given import beyond_fresh, estimate_measures, fresh_estimate, read_given_run
from leafe_verl.evaluation.manifest import Manifest, read_manifest
from leafe_verl.evaluation.pass_at_k import common_ks
from leafe_verl.evaluation.recovery import recovery_estimates
from leafe_verl.evaluation.report import pass_estimates

Figures = dict[str, Any]
"""What a cell holds, as JSON takes it."""
KEPT_COUNTS = ("trees", "attempts", "attempts_scored", "environment_steps", "sampled_tokens")
"""Counts of core.statistics that a cell keeps."""


def read_figures(store: Path) -> Figures:
    """Return what a cell keeps of the evaluation in a folder. Raises ValueError if it has no scored attempt."""
    manifest = read_manifest(store)
    if manifest is None:
        raise ValueError(f"no evaluation in {store}; expected the --out of leafe-verl evaluate")
    run = read_run(store.name, store)
    if manifest.given:  # Pass@k is that of attempts from the start
        return {"dtype": manifest.dtype, **_given_figures(store, manifest), **_spent(run)}
    recovery = {name: _as_list(each) for name, each in recovery_estimates(run.recovery).items()}
    tasks = {key: {"attempts": len(found), "solved": sum(found)} for key, found in run.results.items()}
    counted = {key: {**each, "recovery": dict(run.recovery.get(key, {}))} for key, each in tasks.items()}
    kept = {"manifest": dataclasses.asdict(manifest), "tasks": counted}
    return {"dtype": manifest.dtype, **_passes(run), "recovery": recovery, **ratios(run.counts), **_spent(run), **kept}


def read_cells(file: Path) -> dict[str, Figures]:
    """Return the cells of a file by their names. Raises ValueError, with the line's number, for what is no cell."""
    cells = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                cell = json.loads(line)
                cells[cell["cell"]] = cell
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{file}, line {number} is no cell of a comparison: {error}") from error
    return cells


def read_cell(name: str, reference: str) -> EvaluationRun:
    """Return the evaluation that FILE@CELL names. Raises ValueError if the file has no such cell of plain attempts."""
    file, wanted = _split(name, reference)
    # Those of trainings, of given histories and of earlier versions have none.
    cells = {found: cell for found, cell in read_cells(file).items() if "manifest" in cell}
    if wanted not in cells:
        raise ValueError(f"{name}: {file} has no cell {wanted!r} of plain attempts; there are {', '.join(cells)}")
    cell = cells[wanted]
    results = {key: _outcomes(task) for key, task in cell["tasks"].items()}
    recovery = {key: task["recovery"] for key, task in cell["tasks"].items() if task["recovery"]}
    counts = {key: cell[key] for key in KEPT_COUNTS}
    try:
        manifest = Manifest.from_mapping(cell["manifest"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: the cell {wanted!r} of {file} is of another version: {error}") from error
    return EvaluationRun(name, manifest, results, counts, len(results), recovery, earlier=0)


def _split(name: str, reference: str) -> tuple[Path, str]:
    """Return the file and the cell, either of which may hold an @ itself. Raises ValueError where there is no file."""
    parts = reference.split("@")
    for number in range(1, len(parts)):
        if (file := Path("@".join(parts[:number]))).is_file():
            return file, "@".join(parts[number:])
    raise ValueError(f"{name}: there is no {reference}; expected the folder of an evaluation, or FILE@CELL")


def _outcomes(task: Mapping[str, Any]) -> list[bool]:
    """Return whether each attempt succeeded. Pass@k does not depend on their order, which a cell does not keep."""
    return [True] * task["solved"] + [False] * (task["attempts"] - task["solved"])


def _passes(run: EvaluationRun) -> Figures:
    found = pass_estimates(run.results, common_ks(run.results, run.manifest.attempts))
    return {f"pass@{k}": each.mean for k, each in found.items()} | {
        "intervals": {f"pass@{k}": [each.low, each.high] for k, each in found.items()}
    }


def _given_figures(store: Path, manifest: Manifest) -> Figures:
    """Return the shares from given histories. Their tasks are left out, since the histories are not kept."""
    run = read_given_run(store.name, store, manifest)
    beside = {"fresh": fresh_estimate(run), "beyond_fresh": beyond_fresh(run)}
    return {name: _as_list(each) for name, each in {**estimate_measures(run), **beside}.items() if each}


def _spent(run: EvaluationRun) -> Figures:
    return {name: run.counts[name] for name in KEPT_COUNTS}


def _as_list(estimate: Estimate) -> list[float]:
    """Return the value and the ends of its interval."""
    return [estimate.mean, estimate.low, estimate.high]
