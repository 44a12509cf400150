"""The verbs of the command line. Each takes its options and returns its exit status; cli.py tells what it refuses.

A verb imports what it needs when it runs, so that the others start fast.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def run_check(options: argparse.Namespace) -> int:
    """Show what is installed, and how to fix what is missing."""
    from leafe_verl.check import run_checks

    return run_checks(with_ray=not options.no_ray, model=options.model)


def run_summary(options: argparse.Namespace) -> int:
    """Print the table of a run."""
    from leafe_verl.evaluation.summary import read_metrics, render_summary

    print(render_summary(read_metrics(options.run_dir)))
    return 0


def run_evaluate(options: argparse.Namespace) -> int:
    """Play attempts of a task set, or from given failures, keep them, and print the figures."""
    from leafe_verl.plugin.evaluate import EvaluationRequest, evaluate
    from leafe_verl.plugin.given_request import GivenRequest

    # A recipe is `python -m`, which finds a user's environment in the present folder; a script of pip's does not.
    sys.path.append(os.getcwd())
    given = None
    if options.source:
        given = GivenRequest(options.source, options.turn or 1, options.histories or 4, options.max_tasks)
    elif options.turn or options.histories:
        raise ValueError("--turn and --histories choose among the failures of a store; name it with --from")
    return evaluate(
        EvaluationRequest(
            model=options.model,
            sources=tuple(options.tasks),
            out=options.out,
            attempts=options.attempts or (8 if given else 32),
            max_tasks=options.max_tasks,
            loop=options.loop,
            device=options.device,
            overrides=tuple(options.overrides),
            given=given,
        )
    )


def run_compare(options: argparse.Namespace) -> int:
    """Compare evaluations, and write the comparison."""
    from leafe_verl.evaluation.compare import compare

    names = [name for name, _ in options.runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"several runs are named {', '.join(twice)}; expected another name for each")
    training: dict[str, list[str]] = {}
    for name, run_dir in options.training:
        training.setdefault(name, []).append(str(run_dir))
    return compare(dict(options.runs), options.out, baseline=options.baseline, ks=options.k, training=training)


def run_report(options: argparse.Namespace) -> int:
    """Write the report of runs as one HTML file."""
    from leafe_verl.report.document import report

    return report(options.runs, options.out)


def run_watch(options: argparse.Namespace) -> int:
    """Show a run while it goes on, or draw what its terminal shows."""
    from leafe_verl.report.watch import watch, write_picture

    if options.svg:
        return write_picture(options.run_dir, options.svg)
    return watch(options.run_dir, once=options.once, interval=options.interval)


def run_branches(options: argparse.Namespace) -> int:
    """Print what branches were worth."""
    from leafe_verl.evaluation.branches import render_branches
    from leafe_verl.evaluation.histories import find_store
    from leafe_verl.trees import index, read_tree
    from leafe_verl.trees.reader import batch_reader

    stores, read = [find_store(folder) for folder in options.store], batch_reader()
    print(render_branches(read_tree(place, read)[0] for store in stores for place in index(store).values()))
    return 0


def run_merge(options: argparse.Namespace) -> int:
    """Print a checkpoint's Hugging Face folder."""
    from leafe_verl.checkpoints import hf_folder

    _require_model("model", options.model)
    print(hf_folder(options.model))
    return 0


def run_interpolate(options: argparse.Namespace) -> int:
    """Write the model between one and what it was trained to be."""
    from leafe_verl.interpolation import interpolate

    for name in ("before", "after"):
        _require_model(name, getattr(options, name))
    print(interpolate(options.before, options.after, options.share, options.out))
    return 0


def run_trees(options: argparse.Namespace) -> int:
    """Run one of the verbs of trees/verbs.py on a store."""
    from leafe_verl.evaluation.histories import find_store
    from leafe_verl.trees import verbs

    if options.verb == "merge":
        options.stores = [find_store(folder) for folder in options.stores]
    else:
        options.store = find_store(options.store)
    status: int = getattr(verbs, f"run_{options.verb}")(options)
    return status


def run_recipes(options: argparse.Namespace) -> int:
    """Print the folder of the recipes, or copy them."""
    from leafe_verl.recipes import copy_recipes, find_recipes

    print(copy_recipes(options.directory) if options.directory else find_recipes())
    return 0


def run_embedded_model(options: argparse.Namespace) -> int:
    """Write the embedded model as a Hugging Face folder."""
    from leafe_verl.embedded import prepare_model

    print(prepare_model(options.directory))
    return 0


def _require_model(argument: str, model: str) -> None:
    """Raise ValueError, which names the argument, if there is no such model. What a folder holds is seen later."""
    from leafe_verl.plugin.preflight.model import model_problems

    expected = "give a Hugging Face folder, owner/name or a checkpoint of a run"
    if not Path(model).expanduser().is_dir() and (problems := model_problems(model, expected)):
        raise ValueError(f"{argument}: {problems[0]}")
