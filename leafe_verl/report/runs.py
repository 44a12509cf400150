"""What a folder holds, found by its files: metrics, an experience store, an evaluation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leafe_verl.core import Settings
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.evaluation.attempts import read_records, results_of, total_counts
from leafe_verl.evaluation.manifest import FILE, read_manifest
from leafe_verl.evaluation.summary import read_metrics
from leafe_verl.report.attempts import attempt_trees
from leafe_verl.report.experience import experience_trees
from leafe_verl.report.sources import ReportedTree, Run, Vocabulary

TREES = Path("checkpoints", "trees")
CONFIGURATION = Path("hydra", ".hydra", "config.yaml")
TOKENIZERS = "checkpoints/global_step_*/actor/huggingface/tokenizer.json"


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """Return one run for each folder. Raises ValueError for a folder that holds nothing to report."""
    return [replace(find_run(folder), name=name) for folder, name in zip(folders, names_of(folders), strict=True)]


def names_of(folders: Sequence[Path]) -> list[str]:
    """The folders' names; of several, with the parents that they do not share, as in `base/evaluation`."""
    resolved = [folder.resolve() for folder in folders]
    above = os.path.commonpath([folder.parent for folder in resolved])
    return [str(folder.relative_to(above)) for folder in resolved]


def find_run(folder: Path) -> Run:
    """Return the training run or the evaluation that `folder` is."""
    if (folder / FILE).is_file():
        return _evaluation(folder)
    store = folder / TREES if (folder / TREES).is_dir() else folder
    stored = any(store.glob("trees-*.arrow"))
    measured = any(folder.glob("metrics-*.jsonl"))
    if not stored and not measured:
        raise ValueError(
            f"{folder}: nothing to report; expected metrics-*.jsonl or {TREES} of a training run, {FILE} of an "
            "evaluation, or trees-*.arrow of an experience store"
        )
    return _training(folder, store if stored else None, measured)


def _evaluation(folder: Path) -> Run:
    manifest = read_manifest(folder)
    assert manifest is not None
    records = read_records(folder)
    notes = (f"Evaluation of {manifest.model}.", "An evaluation keeps neither prompts nor tokens.")
    trees = attempt_trees(folder, explores=manifest.explores)
    return Run(
        folder.name,
        trees,
        results=results_of(records),
        counts=total_counts(records),
        explores=manifest.explores,
        notes=notes,
    )


def _training(folder: Path, store: Path | None, measured: bool) -> Run:
    configuration = read_configuration(folder / CONFIGURATION)
    chosen = choice_of_examples(configuration)
    notes = [] if store else [f"No tree was stored: {folder / TREES} is not there."]
    notes += [] if measured else ["No metrics were found; the figures are those of the stored trees."]
    notes += [chosen.note] if store and chosen.note else []
    trees: Iterator[ReportedTree] = iter(())
    if store:
        trees = experience_trees(store, chosen.settings, chosen.seed)
    metrics = read_metrics(folder) if measured else {}
    vocabulary = find_vocabulary(folder, configuration) if store else None
    return Run(folder.name, trees, metrics=metrics, vocabulary=vocabulary, notes=tuple(notes))


def read_configuration(path: Path) -> Mapping[str, Any]:
    """Return what Hydra wrote of the run's configuration; empty where it did not, or nothing here reads YAML."""
    try:
        import yaml  # type: ignore[import-untyped, unused-ignore]  # comes with verl, by way of Hydra
    except ImportError:
        return {}
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}


@dataclass(frozen=True)
class Choice:
    """What decides which examples a tree gave."""

    settings: DistillationSettings
    seed: int
    note: str | None = None


def choice_of_examples(configuration: Mapping[str, Any]) -> Choice:
    """Return the run's own choice, or the defaults with a note that says so."""
    defaults = Settings()
    note = "The examples are those that the default settings choose: "
    if "leafe" not in configuration:
        return Choice(defaults.distillation, defaults.seed, f"{note}{CONFIGURATION} of the run is not there.")
    try:
        # These alone: a run of another version may have settings elsewhere that are unknown here.
        chosen = {
            name: configuration["leafe"][name] for name in ("distillation", "seed") if name in configuration["leafe"]
        }
        settings = Settings.from_mapping(chosen)
    except ValueError as error:
        return Choice(defaults.distillation, defaults.seed, f"{note}those of the run are of another version ({error}).")
    return Choice(settings.distillation, settings.seed)


def find_vocabulary(folder: Path, configuration: Mapping[str, Any]) -> Vocabulary | None:
    """Return what the run's tokens stand for, where its tokenizer and a library that reads it are there."""
    try:
        from tokenizers import Tokenizer  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return None
    model = configuration.get("actor_rollout_ref", {}).get("model", {}).get("path") or ""
    paths = [*sorted(folder.glob(TOKENIZERS)), Path(model) / "tokenizer.json"]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return None
    tokenizer = Tokenizer.from_file(str(path))
    return lambda token: str(tokenizer.decode([token], skip_special_tokens=False))
