"""Runs the verbs of `leafe-verl trees`: each takes parsed options, prints its result and returns the exit status."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from leafe_verl.core import Kind, Settings
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.run_settings import CONFIGURATION, read_configuration, read_example_settings
from leafe_verl.trees.conditions import Condition, parse_condition
from leafe_verl.trees.copying import copy_trees, repair
from leafe_verl.trees.export import KINDS, ExportOptions, export
from leafe_verl.trees.listing import list_trees, show_tree
from leafe_verl.trees.rendering import REASONS, RowReader
from leafe_verl.trees.verification import verify


def run_list(options: argparse.Namespace) -> int:
    for line in list_trees(options.store, _conditions(options)):
        print(line)
    return 0


def run_show(options: argparse.Namespace) -> int:
    print(show_tree(options.store, options.key, options.step, options.run_name))
    return 0


def run_filter(options: argparse.Namespace) -> int:
    return _copy([options.store], options.out, _conditions(options))


def run_merge(options: argparse.Namespace) -> int:
    return _copy(options.stores, options.out, ())


def run_verify(options: argparse.Namespace) -> int:
    if options.repair:
        for path, whole, rest in repair(options.store):
            print(f"{path}: cut to {whole} whole trees; the rest is in {rest.name}")
    result = verify(options.store)
    print("\n".join(result.lines()))
    return 1 if result.problems else 0


def run_export(options: argparse.Namespace) -> int:
    counts = export(options.store, options.out, _export_options(options))
    print(", ".join(f"{number} {name}" for name, number in counts.items()))
    if counts["folded"]:
        print(f"{counts['folded']} rows hold earlier turns as ChatML text: for models of another template, use trl")
    for name, reason in REASONS.items():
        if counts[name]:
            print(f"{counts[name]} rows were left out because {reason}")
    if options.verbatim:
        print(f"{options.out}.jinja is the chat template to train with")
    return 0


def _copy(stores: list[Path], out: Path, conditions: tuple[Condition, ...]) -> int:
    copied = copy_trees(stores, out, conditions)
    print(f"{out}: {copied.written} of {copied.read} trees, {copied.duplicates} duplicates dropped")
    return 0


def _conditions(options: argparse.Namespace) -> tuple[Condition, ...]:
    return tuple(parse_condition(text) for text in options.where)


def _export_options(options: argparse.Namespace) -> ExportOptions:
    """Return what to export. Raises ValueError for settings that leafe.distillation refuses too."""
    settings = _example_settings(options)
    if options.kinds and Kind.RECOVERY.value in options.kinds and not settings.recovery_targets:
        raise ValueError(
            "--kinds has recovery, and the number of recovery targets is 0; expected --recovery-targets of at least 1"
        )
    kinds = tuple(Kind(name) for name in options.kinds) if options.kinds else KINDS
    if options.verbatim and not options.tokenizer:
        raise ValueError("--verbatim writes the text of tokens; expected --tokenizer with the model's folder or name")
    reader = RowReader.load(options.tokenizer, verbatim=options.verbatim) if options.tokenizer else None
    return ExportOptions(settings, kinds, _conditions(options), options.seed, options.format, reader, options.verbatim)


def _example_settings(options: argparse.Namespace) -> DistillationSettings:
    """Return the settings of the run that the store is of, else the defaults with all recovery targets that the trees
    hold, in either case with what the options say."""
    names = ("events", "target", "events_per_task", "rehearsal_share", "recovery_targets", "thoughts")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    # The store is RUN_DIR/checkpoints/trees, and `checkpoints` may be a link to a larger disk.
    stores = Path(os.path.abspath(options.store)), Path(options.store).resolve()
    beside = [store.parent.parent / CONFIGURATION for store in stores]
    path = next(filter(Path.is_file, beside), None)
    base: dict[str, object] = {"recovery_targets": sys.maxsize}
    if path is None and stores[0].parent.name == "checkpoints":
        print(f"settings of examples: the defaults, with all recovery targets, since there is no {beside[0]}")
    if path is not None:
        chosen = read_example_settings(read_configuration(path))
        if chosen.note is None:
            # Rows are trained on by -log pi alone, and DPO's pairs and the matched volume of a control are no rows.
            base = chosen.settings.model_dump() | dict.fromkeys(("loss", "recovery_loss", "hold_loss"), "nll")
            base["control"] = None
        print(chosen.note or f"settings of examples: those of {path}")
    return Settings.from_mapping({"distillation": {**base, **given}}).distillation
