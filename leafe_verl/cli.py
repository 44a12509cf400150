"""The command line: `leafe-verl VERB`, or `python -m leafe_verl VERB`."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from leafe_verl import verbs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb, see verbs.py, and return its exit status."""
    parser = _parser()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a locale may lack a dash, which is no reason to lose a table
    options, rest = parser.parse_known_args(arguments)
    # argparse accepts a list of positional arguments in one place only, but overrides may appear anywhere.
    options.overrides = [text for text in rest if "=" in text and not text.startswith("-")]
    if rest and (options.run is not verbs.run_evaluate or options.overrides != rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130  # as a shell reports it
    except (ValueError, OSError, ImportError) as error:  # what a verb refuses, cannot read or write, or lacks
        print(error, file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="leafe-verl", description="LEAFE for verl (arXiv 2603.16843)")
    parsers = parser.add_subparsers(required=True, metavar="VERB")
    _add_check(parsers.add_parser("check", help="show what is installed, what is missing, and how to fix it"))
    _add_summary(parsers.add_parser("summary", help="print a run's Pass@k before and after, attempts and examples"))
    _add_evaluate(
        parsers.add_parser(
            "evaluate",
            help="play plain attempts of a task set, keep them, and print Pass@k",
            epilog="Arguments of the form KEY=VALUE are Hydra overrides, for example leafe.environment.horizon=2",
        )
    )
    _add_compare(parsers.add_parser("compare", help="compare evaluations: table, paired differences, picture"))
    _add_report(parsers.add_parser("report", help="write what was explored and learned as one HTML file"))
    _add_watch(parsers.add_parser("watch", help="show a training run's figures in the terminal while it goes on"))
    _add_branches(parsers.add_parser("branches", help="print what branches were worth, beside a fresh sample"))
    _add_merge(parsers.add_parser("merge", help="print a checkpoint's Hugging Face folder, creating it if necessary"))
    _add_interpolate(
        parsers.add_parser("interpolate", help="write a model whose weights lie between those of two models")
    )
    _add_trees(parsers.add_parser("trees", help="list, show, copy, verify and export exploration trees"))
    _add_recipes(parsers.add_parser("recipes", help="print the folder of the recipes, or copy them into a new one"))
    _add_embedded_model(
        parsers.add_parser("embedded-model", help="write SmolLM2-135M-Instruct as a Hugging Face folder")
    )
    return parser


def _add_check(check: argparse.ArgumentParser) -> None:
    check.add_argument("--no-ray", action="store_true", help="do not start Ray to check one of its workers")
    check.add_argument(
        "--model",
        metavar="MODEL",
        help="also ask the chat template of this folder, owner/name or checkpoint how turns are appended",
    )
    check.set_defaults(run=verbs.run_check)


def _add_summary(summary: argparse.ArgumentParser) -> None:
    summary.add_argument("run_dir", type=Path, help="RUN_DIR of a recipe")
    summary.set_defaults(run=verbs.run_summary)


def _add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument("--model", help="Hugging Face folder, owner/name, or checkpoint of a run (default MODEL)")
    evaluate.add_argument(
        "--tasks",
        action="append",
        default=[],
        metavar="SOURCE",
        help="task file, in any form that TRAIN_FILES takes; repeat for several (default VAL_FILES)",
    )
    evaluate.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="new folder, or an evaluation to continue"
    )
    evaluate.add_argument(
        "--attempts", type=_positive, help="attempts per task (default 32), or per failed history (default 8)"
    )
    evaluate.add_argument("--max-tasks", type=_positive, help="use only the first N tasks (default all)", metavar="N")
    evaluate.add_argument(
        "--loop", choices=("episode", "explore"), default="episode", help="plain attempts (default) or trees"
    )
    evaluate.add_argument(
        "--device", choices=("auto", "cpu", "gpu"), default="auto", help="auto (default) takes GPUs if there are any"
    )
    _add_given(evaluate.add_argument_group("recovery from given failures, the same for every model"))
    evaluate.set_defaults(run=verbs.run_evaluate)


def _add_given(given: argparse._ArgumentGroup) -> None:
    given.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="STORE",
        help="go on from failed attempts in the --out of an evaluate, a RUN_DIR or a tree store (default: begin anew)",
    )
    given.add_argument("--turn", type=_positive, metavar="T", help="the turn that has failed (default 1)")
    given.add_argument("--histories", type=_positive, metavar="H", help="maximum number per task (default 4)")


def _add_compare(compare: argparse.ArgumentParser) -> None:
    compare.add_argument(
        "runs",
        nargs="+",
        type=_named,
        metavar="NAME=DIR",
        help="DIR is the --out of an evaluate, or CELLS.jsonl@CELL of a comparison",
    )
    compare.add_argument(
        "--out", type=Path, default=Path("comparison"), help="folder, or path of the written files without their suffix"
    )
    compare.add_argument("--baseline", metavar="NAME", help="run that the others are compared with (default the first)")
    compare.add_argument(
        "--k", type=_numbers, help="values of k, for example 1,8,32 (default 1, 2, 4, ... as far as all runs allow)"
    )
    compare.add_argument(
        "--training",
        nargs="+",
        action="extend",
        type=_named,
        default=[],
        metavar="NAME=RUN_DIR[@N]",
        help="training runs, or their first N steps, that give each method's cost; runs of one name are summed",
    )
    compare.set_defaults(run=verbs.run_compare)


def _add_report(report: argparse.ArgumentParser) -> None:
    report.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="RUN_DIR, the --out of an evaluate, or a tree store"
    )
    report.add_argument("--out", type=Path, metavar="FILE", help="HTML file, or folder (default the first RUN)")
    report.set_defaults(run=verbs.run_report)


def _add_watch(watch: argparse.ArgumentParser) -> None:
    watch.add_argument("run_dir", type=Path, help="RUN_DIR of a recipe; it does not have to exist yet")
    watch.add_argument("--once", action="store_true", help="print one snapshot and exit (default without a TTY)")
    watch.add_argument(
        "--interval", type=_positive, default=2, metavar="SECONDS", help="time between updates (default 2)"
    )
    watch.add_argument("--svg", type=Path, metavar="FILE", help="write what the run's terminal shows as a picture")
    watch.set_defaults(run=verbs.run_watch)


def _add_merge(merge: argparse.ArgumentParser) -> None:
    merge.add_argument("model", help="RUN_DIR/checkpoints/global_step_N; a Hugging Face model is printed unchanged")
    merge.set_defaults(run=verbs.run_merge)


def _add_interpolate(interpolate: argparse.ArgumentParser) -> None:
    for name, what in (("before", "the model that a training began with"), ("after", "what it was trained to be")):
        interpolate.add_argument(name, help=f"{what}: Hugging Face folder, owner/name, or checkpoint of a run")
    interpolate.add_argument("--share", type=float, default=0.5, help="how far to go, above 0, below 1 (default 0.5)")
    interpolate.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
    interpolate.set_defaults(run=verbs.run_interpolate)


def _add_embedded_model(model: argparse.ArgumentParser) -> None:
    model.add_argument("directory", type=Path, help="new folder for the model")
    model.set_defaults(run=verbs.run_embedded_model)


def _add_branches(branches: argparse.ArgumentParser) -> None:
    branches.add_argument("store", type=Path, nargs="+", help="RUN_DIR, the --out of an evaluate, or a tree store")
    branches.set_defaults(run=verbs.run_branches)


def _add_recipes(recipes: argparse.ArgumentParser) -> None:
    recipes.add_argument("directory", type=Path, nargs="?", help="new folder for a copy (default: none is made)")
    recipes.set_defaults(run=verbs.run_recipes)


def _add_trees(trees: argparse.ArgumentParser) -> None:
    parsers = trees.add_subparsers(required=True, metavar="VERB", dest="verb")
    store, conditions = _store_argument(), _condition_argument()
    parsers.add_parser("list", parents=[store, conditions], help="print a table of the trees")
    _add_show(parsers.add_parser("show", parents=[store], help="print one tree as indented text"))
    filtered = parsers.add_parser("filter", parents=[store, conditions], help="copy the trees that meet conditions")
    merge = parsers.add_parser("merge", help="copy stores into one with few files, without duplicates")
    merge.add_argument("stores", type=Path, nargs="+", metavar="store")
    for verb in (filtered, merge):
        verb.add_argument("--out", required=True, type=Path, metavar="STORE", help="a new folder")
    verify = parsers.add_parser("verify", parents=[store], help="parse every tree; exit with 1 and the problems found")
    verify.add_argument("--repair", action="store_true", help="first cut damaged files down to their whole trees")
    _add_export(
        parsers.add_parser(
            "export",
            parents=[store, conditions],
            help="write SFT examples as chat messages",
            epilog="Options that are not given take the settings of the run that the store is of, else the defaults of "
            "leafe.distillation, with all recovery targets.",
        )
    )
    for verb in parsers.choices.values():
        verb.set_defaults(run=verbs.run_trees)


def _store_argument() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("store", type=Path, help="RUN_DIR, the --out of an evaluate, or a folder with trees-*.arrow")
    return parser


def _condition_argument() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="for example solved=true or 'step>=3'; repeat to require several; an invalid one lists the columns",
    )
    return parser


def _add_show(show: argparse.ArgumentParser) -> None:
    show.add_argument("key", help="key of the task")
    show.add_argument("--step", type=int, help="training step, if the task has several trees")
    show.add_argument("--run", dest="run_name", metavar="RUN", help="run, if several runs have a tree of the task")


def _add_export(export: argparse.ArgumentParser) -> None:
    export.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help=".jsonl for trl; .parquet or .jsonl for verl"
    )
    export.add_argument("--format", choices=("trl", "verl"), default="trl", help="trainer that will read the file")
    export.add_argument("--kinds", nargs="+", choices=("counterfactual", "rehearsal", "recovery"), help="default all")
    export.add_argument("--events", choices=("improved", "every", "success"), help="branches to train on")
    export.add_argument("--target", choices=("action", "suffix"), help="what counterfactual examples train on")
    export.add_argument("--events-per-task", type=int, metavar="N", help="most counterfactual examples of one task")
    export.add_argument(
        "--rehearsal-share", type=float, metavar="SHARE", help="share of the successful attempts, from 0 to 1"
    )
    export.add_argument(
        "--recovery-targets",
        type=int,
        metavar="N",
        help="most recovery targets of one task, of those that the trees hold",
    )
    export.add_argument(
        "--no-thoughts",
        dest="thoughts",
        action="store_const",
        const=False,
        help="do not train on thoughts before answers",
    )
    export.add_argument("--seed", type=int, help="seed for choosing examples (default each tree's own)")
    export.add_argument(
        "--tokenizer",
        metavar="MODEL",
        help="the model's folder or name; with it every row is read as its trainer reads it, and left out if it would "
        "train something else",
    )
    export.add_argument(
        "--verbatim",
        action="store_true",
        help="write the rendered text instead of chat messages, with a chat template that leaves it as it is: for any "
        "model, and for thoughts; needs --tokenizer",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected an integer of at least 1")
    return int(text)


def _numbers(text: str) -> list[int]:
    return [_positive(part) for part in text.split(",")]


def _named(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"{text!r}; expected NAME=FOLDER")
    return name, Path(folder)
