"""Finds out what a folder holds by its files: a training run, a tree store or an evaluation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from leafe_verl.checkpoints import tree_store
from leafe_verl.evaluation.given import GivenRun, describe_divergence, describe_histories, read_given_run
from leafe_verl.evaluation.manifest import FILE, read_manifest
from leafe_verl.evaluation.results import read_evaluation, recovery_counts, successes_by_task, total_counts
from leafe_verl.evaluation.summary import Metrics, read_metrics
from leafe_verl.report.sources import ReportedRun, ReportedTree, Vocabulary
from leafe_verl.report.stored_trees import evaluation_trees, training_trees
from leafe_verl.run_settings import CONFIGURATION, read_configuration, read_example_settings
from leafe_verl.trees.reader import arrow_files

TREES = Path("checkpoints", "trees")
"""The tree store of a run, in its folder."""
TOKENIZERS = "checkpoints/global_step_*/actor/huggingface/tokenizer.json"


def find_runs(folders: Sequence[Path]) -> list[ReportedRun]:
    """Return one run for each folder. Raises ValueError if a folder holds nothing to report."""
    return [replace(find_run(folder), name=name) for folder, name in zip(folders, distinct_names(folders), strict=True)]


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Return the folders' names, preceded by the parents that they do not share, as in `base/evaluation`."""
    resolved = [folder.resolve() for folder in folders]
    above = os.path.commonpath([folder.parent for folder in resolved])
    return [str(folder.relative_to(above)) for folder in resolved]


def find_run(folder: Path) -> ReportedRun:
    """Return the training run or the evaluation in a folder. Raises ValueError if there is neither."""
    if (folder / FILE).is_file():
        return _evaluation(folder)
    own = tree_store(folder / "checkpoints")
    own = own if own.is_dir() else folder
    configuration = read_configuration(folder / CONFIGURATION)
    store = own if arrow_files(own) else _given_store(configuration)
    metrics = _metrics(folder)
    if not store and not metrics:
        raise ValueError(
            f"{folder}: nothing to report; expected metrics-*.jsonl or {TREES} of a training run, {FILE} of an "
            "evaluation, or trees-*.arrow of a tree store"
        )
    return _training(folder, store, configuration, metrics)


def _given_store(configuration: Mapping[str, Any]) -> Path | None:
    """Return the store that a run kept its trees in, or that stage 2 alone distilled, if its trees are still there."""
    collection = configuration.get("leafe", {}).get("collection") or {}
    store = Path(str(collection.get("store") or ""))
    return store if store.is_absolute() and store.is_dir() and arrow_files(store) else None


def _sharing_run(configuration: Mapping[str, Any]) -> str | None:
    """Return the name of a run whose store may hold trees of others; None for stage 2 alone, which distils them all."""
    if configuration.get("leafe", {}).get("schedule", {}).get("stages") == "distil":
        return None
    name: str | None = configuration.get("trainer", {}).get("experiment_name")
    return name


def _metrics(folder: Path) -> Metrics:
    """Return the run's metrics; empty if there are none, as before the first step has ended."""
    try:
        return read_metrics(folder)
    except ValueError:
        return {}


def _evaluation(folder: Path) -> ReportedRun:
    manifest = read_manifest(folder)
    assert manifest is not None
    trees = read_evaluation(folder)
    given = read_given_run(folder.name, folder, manifest) if manifest.given else None
    return ReportedRun(
        folder.name,
        evaluation_trees(folder, explores=manifest.explores),
        results={} if given else successes_by_task(trees),
        attempts=manifest.attempts,
        given=given,
        counts=total_counts(trees),
        recovery=recovery_counts(trees),
        explores=manifest.explores,
        notes=(f"Evaluation of {manifest.model}.", *_given_notes(given), "An evaluation keeps no tokens."),
    )


def _given_notes(given: GivenRun | None) -> list[str]:
    if given is None:
        return []
    notes = (f"{note}." for note in describe_divergence(given))
    return [f"Every attempt goes on from one of {describe_histories(given)}.", *notes]


def _training(folder: Path, store: Path | None, configuration: Mapping[str, Any], metrics: Metrics) -> ReportedRun:
    chosen = read_example_settings(configuration)
    notes = []
    if not store:
        notes.append(f"No tree was stored: {folder / TREES} is not there.")
    elif folder not in (store, *store.parents):
        notes.append(f"The trees are those that this run was given: {store}.")
    notes += [] if metrics else ["No metrics were found; the figures are those of the stored trees."]
    notes += [chosen.note] if store and chosen.note else []
    trees: Iterator[ReportedTree] = iter(())
    if store:
        run = None if folder in (store, *store.parents) else _sharing_run(configuration)
        trees = training_trees(store, chosen.settings, None if chosen.note else chosen.seed, run)
    vocabulary = find_vocabulary(folder, configuration) if store else None
    return ReportedRun(folder.name, trees, metrics=metrics, vocabulary=vocabulary, notes=tuple(notes))


def find_vocabulary(folder: Path, configuration: Mapping[str, Any]) -> Vocabulary | None:
    """Return the texts of the run's tokens; None if its tokenizer or a library that reads it is missing, or torn."""
    try:
        from tokenizers import Tokenizer  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return None
    model = configuration.get("actor_rollout_ref", {}).get("model", {}).get("path") or ""
    paths = [*sorted(folder.glob(TOKENIZERS)), Path(model) / "tokenizer.json"]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception:  # of no kind of its own, for a file that a killed process did not finish
        return None
    return lambda token: str(tokenizer.decode([token], skip_special_tokens=False))
