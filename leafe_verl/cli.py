"""The command line: `leafe-verl VERB`, also `python -m leafe_verl VERB`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status. Heavy imports wait until their verb is chosen."""
    options = _parser().parse_args(arguments)
    status: int = options.run(options)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="leafe-verl", description="LEAFE for verl (arXiv 2603.16843)")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    check = verbs.add_parser("check", help="what is installed, what is missing, and the command that mends it")
    check.add_argument("--no-ray", action="store_true", help="do not start Ray to look inside one of its workers")
    check.set_defaults(run=_check)

    summary = verbs.add_parser("summary", help="print a run's table: Pass@k before and after, attempts, examples")
    summary.add_argument("run_dir", type=Path, help="RUN_DIR of a recipe")
    summary.set_defaults(run=_summary)

    model = verbs.add_parser("embedded-model", help="write SmolLM2-135M-Instruct as a Hugging Face folder")
    model.add_argument("directory", type=Path)
    model.set_defaults(run=_embedded_model)
    return parser


def _check(options: argparse.Namespace) -> int:
    from leafe_verl.check import run_checks

    return run_checks(with_ray=not options.no_ray)


def _summary(options: argparse.Namespace) -> int:
    from leafe_verl.evaluation.summary import read_metrics, render_summary

    try:
        print(render_summary(read_metrics(options.run_dir)))
    except ValueError as error:
        print(error)
        return 1
    return 0


def _embedded_model(options: argparse.Namespace) -> int:
    from leafe_verl.embedded import prepare_model

    print(prepare_model(options.directory))
    return 0
