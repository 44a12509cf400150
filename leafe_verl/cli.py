"""The command line: `leafe-verl VERB`, also `python -m leafe_verl VERB`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status. Heavy imports wait until their verb is chosen."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse takes a list of positional arguments in one place only; overrides may stand anywhere.
    options.overrides = [text for text in rest if "=" in text and not text.startswith("-")]
    if rest and (options.run is not _evaluate or options.overrides != rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # who read it, as `head` does, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
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

    evaluate = verbs.add_parser(
        "evaluate",
        help="play plain attempts of a task set, keep them, print Pass@k",
        epilog="Every argument with an equals sign is an override of Hydra's, as in: leafe.environment.horizon=2",
    )
    evaluate.add_argument("--model", required=True, help="Hugging Face folder, owner/name, or checkpoint of a run")
    evaluate.add_argument("--tasks", required=True, nargs="+", metavar="SOURCE", help="task files, as in TRAIN_FILES")
    evaluate.add_argument("--out", required=True, type=Path, metavar="DIR", help="new, or an evaluation to go on with")
    evaluate.add_argument("--attempts", type=_positive, default=32, help="of each task (default 32)")
    evaluate.add_argument("--max-tasks", type=_positive, help="the first so many tasks; default all")
    evaluate.add_argument("--loop", choices=("episode", "explore"), default="episode", help="plain attempts, or trees")
    evaluate.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    evaluate.set_defaults(run=_evaluate)

    compare = verbs.add_parser("compare", help="evaluations side by side: table, differences, picture")
    compare.add_argument("runs", nargs="+", type=_named, metavar="NAME=DIR", help="each an --out of evaluate")
    compare.add_argument("--out", type=Path, default=Path("comparison"), help="path of the files, without their ending")
    compare.add_argument("--baseline", metavar="NAME", help="what the others are compared with; default the first")
    compare.add_argument("--k", type=_numbers, help="such as 1,8,32; default 1, 2, 4, ... up to what all have")
    compare.add_argument(
        "--training",
        nargs="+",
        action="extend",
        type=_named,
        default=[],
        metavar="NAME=RUN_DIR[@N]",
        help="training runs, or the first N steps of them, for what each method cost; those of one name add up",
    )
    compare.set_defaults(run=_compare)

    report = verbs.add_parser("report", help="write what was explored and learned as one HTML file")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="RUN_DIR, an --out of evaluate, or a store")
    report.add_argument("--out", type=Path, metavar="FILE", help="default: report.html in the first RUN")
    report.set_defaults(run=_report)

    watch = verbs.add_parser("watch", help="a training run's figures in the terminal while it goes on")
    watch.add_argument("run_dir", type=Path, help="RUN_DIR of a recipe; it need not be there yet")
    watch.add_argument("--once", action="store_true", help="print them once, as is done where no terminal is")
    watch.add_argument("--interval", type=_positive, default=2, metavar="SECONDS", help="between looks (default 2)")
    watch.set_defaults(run=_watch)

    merge = verbs.add_parser("merge", help="print a checkpoint's Hugging Face folder, making it if need be")
    merge.add_argument("model", help="RUN_DIR/checkpoints/global_step_N; a Hugging Face model is printed as it is")
    merge.set_defaults(run=_merge)

    _add_trees(verbs.add_parser("trees", help="look into what was collected, copy, verify and export it"))

    model = verbs.add_parser("embedded-model", help="write SmolLM2-135M-Instruct as a Hugging Face folder")
    model.add_argument("directory", type=Path)
    model.set_defaults(run=_embedded_model)
    return parser


def _add_trees(trees: argparse.ArgumentParser) -> None:
    verbs = trees.add_subparsers(required=True, metavar="VERB", dest="verb")
    one, chosen = argparse.ArgumentParser(add_help=False), argparse.ArgumentParser(add_help=False)
    one.add_argument("store", type=Path, help="folder with trees-*.arrow")
    chosen.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="such as solved=true or 'step>=3'; several must all hold; a wrong one lists the columns",
    )

    verbs.add_parser("list", parents=[one, chosen], help="a table of the trees")

    show = verbs.add_parser("show", parents=[one], help="one tree as indented text")
    show.add_argument("key", help="of its task")
    show.add_argument("--step", type=int, help="training step, where the task has several trees")
    show.add_argument("--run", dest="run_name", metavar="RUN", help="where several runs have them")

    filtered = verbs.add_parser("filter", parents=[one, chosen], help="copy the trees that meet conditions")
    merge = verbs.add_parser("merge", help="copy stores into one of few files, duplicates dropped")
    merge.add_argument("stores", type=Path, nargs="+", metavar="store")
    for verb in (filtered, merge):
        verb.add_argument("--out", required=True, type=Path, metavar="STORE", help="a new folder")

    verify = verbs.add_parser("verify", parents=[one], help="parse every tree; status 1 with what is wrong")
    verify.add_argument("--repair", action="store_true", help="first cut damaged files to their whole trees")

    export = verbs.add_parser(
        "export",
        parents=[one, chosen],
        help="write SFT examples as chat messages",
        epilog="Choices that are not given are those of leafe.distillation's defaults.",
    )
    export.add_argument("--out", required=True, type=Path, metavar="FILE", help=".jsonl; .parquet or .jsonl for verl")
    export.add_argument("--format", choices=("trl", "verl"), default="trl", help="trainer that is to read it")
    export.add_argument("--kinds", nargs="+", choices=("counterfactual", "rehearsal"), help="default both")
    export.add_argument("--events", choices=("improved", "every", "success"), help="branching events")
    export.add_argument("--target", choices=("action", "suffix"), help="of counterfactual examples")
    export.add_argument("--events-per-task", type=int, metavar="N")
    export.add_argument("--rehearsal-share", type=float, metavar="SHARE", help="of the successful attempts, 0 to 1")
    export.add_argument("--seed", type=int, help="of the choice of examples; default each tree's own")
    for verb in verbs.choices.values():
        verb.set_defaults(run=_trees)


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


def _evaluate(options: argparse.Namespace) -> int:
    from leafe_verl.plugin.launch import Request, evaluate

    # After `--tasks FILE...`, overrides look like files to argparse.
    late = [text for text in options.tasks if "=" in text and not Path(text).exists()]
    request = Request(
        model=options.model,
        sources=tuple(source for source in options.tasks if source not in late),
        out=options.out,
        attempts=options.attempts,
        max_tasks=options.max_tasks,
        loop=options.loop,
        device=options.device,
        overrides=(*late, *options.overrides),
    )
    return _or_error(lambda: evaluate(request))


def _compare(options: argparse.Namespace) -> int:
    from leafe_verl.evaluation.compare import compare

    training: dict[str, list[str]] = {}
    for name, run_dir in options.training:
        training.setdefault(name, []).append(str(run_dir))
    return _or_error(
        lambda: compare(dict(options.runs), options.out, baseline=options.baseline, ks=options.k, training=training)
    )


def _report(options: argparse.Namespace) -> int:
    from leafe_verl.report.document import report

    return _or_error(lambda: report(options.runs, options.out))


def _watch(options: argparse.Namespace) -> int:
    from leafe_verl.report.watch import watch

    return _or_error(lambda: watch(options.run_dir, once=options.once, interval=options.interval))


def _merge(options: argparse.Namespace) -> int:
    from leafe_verl.checkpoints import hf_folder

    def print_folder() -> int:
        print(hf_folder(options.model))
        return 0

    return _or_error(print_folder)


def _trees(options: argparse.Namespace) -> int:
    from leafe_verl.trees import verbs

    return _or_error(lambda: getattr(verbs, f"run_{options.verb}")(options))


def _or_error(verb: Callable[[], int]) -> int:
    """Run a verb; what it refuses is said on the error stream, with status 1."""
    try:
        return verb()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1


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


def _embedded_model(options: argparse.Namespace) -> int:
    from leafe_verl.embedded import prepare_model

    print(prepare_model(options.directory))
    return 0
