"""Time to quality: how long LEAFE and verl's GRPO train until the policy is as good as wanted.

    python tests/benchmarks/time_to_quality.py --out FOLDER --steps 4 --tasks 8 --rates 1e-5 3e-5 --seeds 0

Each trains by its recipe from the same model on the same tasks, with eight attempts at a task, and validates after
every step. Time is that of training: starting, validations and checkpoints are left out. Every rate is tried with every
seed, and a contestant counts with the rate whose Pass@1 is highest at the end on other tasks, those of --dev. A level
is what a contestant has at its end, if that is above its start beyond chance (paired over tasks); the other reaches it
with the first validation that is as high. What is finished is kept in FOLDER, and not run again; a training that was
interrupted begins anew, since one that goes on would take trees that its store holds for nothing.

Prints a table of levels and a line of JSON, then draws the curves to FOLDER/time_to_quality.svg.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from leafe_verl.embedded import DEV_FILE
from leafe_verl.evaluation.cells import read_figures
from leafe_verl.evaluation.validations import estimate_changes
from quality_levels import COSTS, GRPO, LEAFE, Training, choose_rate, compare, read_points
from runs import ROOT, print_table, ratio

RECIPES = {LEAFE: "leafe_mbpp", GRPO: "grpo_mbpp"}
SEEDS = ("data.seed", "leafe.seed", "actor_rollout_ref.rollout.seed", "actor_rollout_ref.actor.data_loader_seed")
FINISHED = "finished.json"
"""In the folder of a run that has ended: the arguments of its recipe."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    trainings = [
        train(options, contestant, rate, seed)
        for contestant, rate, seed in itertools.product(RECIPES, options.rates, options.seeds)
    ]
    best = {contestant: choose_rate(trainings, contestant) for contestant in RECIPES}
    rows = [row for seed in options.seeds for row in compare(best[LEAFE][seed], best[GRPO][seed])]
    columns = ["level", "seed", *(f"{name}: {cost}" for cost in COSTS for name in RECIPES)]
    print_table(columns, rows, {"ratios": list(_ratios(best))})
    draw(best, options.out / "time_to_quality.svg")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=4, help="of training")
    parser.add_argument("--tasks", type=int, default=8, help="of a step")
    parser.add_argument("--rates", nargs="+", default=["1e-5", "3e-5"], help="learning rates")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--dev", type=Path, default=DEV_FILE, help="tasks that the rates are chosen by")
    parser.add_argument("overrides", nargs="*", help="Hydra's, for all runs")
    return parser


def train(options: argparse.Namespace, contestant: str, rate: str, seed: int) -> Training:
    """Run a recipe, unless it has run. Raises RuntimeError if it fails, or has run with other arguments."""
    folder = options.out.absolute() / f"{RECIPES[contestant]}-{rate}-{seed}"
    arguments = [*options.overrides, f"trainer.total_training_steps={options.steps}"]
    arguments += [f"data.train_batch_size={options.tasks}", "trainer.test_freq=1"]
    arguments += [f"actor_rollout_ref.actor.optim.lr={rate}", *(f"{key}={seed}" for key in SEEDS)]
    finished = folder / FINISHED
    if not finished.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        recipe = str(ROOT / "recipes" / f"{RECIPES[contestant]}.sh")
        _run(["bash", recipe, *arguments], folder.name, RUN_DIR=str(folder))
        finished.write_text(json.dumps(arguments))
    if json.loads(finished.read_text()) != arguments:
        raise RuntimeError(f"{folder} holds a run with other arguments; expected the same ones, or another --out")
    return Training(contestant, rate, seed, read_points(folder), _evaluate(options, folder))


def _evaluate(options: argparse.Namespace, folder: Path) -> float:
    """Return Pass@1 of a run's last checkpoint on the development tasks."""
    model = folder / "checkpoints" / f"global_step_{options.steps}"
    command = [sys.executable, "-m", "leafe_verl", "evaluate", "--model", str(model), "--tasks", str(options.dev)]
    command += [each for each in options.overrides if not each.startswith("preset=")]  # of training alone
    _run([*command, "--attempts", "8", "--out", str(folder / "dev")], f"{folder.name} on {options.dev.name}")
    return float(read_figures(folder / "dev")["pass@1"])


def _run(command: Sequence[str], name: str, **variables: str) -> None:
    print(f"== {name}", flush=True)
    if status := subprocess.run(command, env={**os.environ, **variables}).returncode:
        raise RuntimeError(f"{name} ended with status {status}")


def _ratios(best: Mapping[str, Mapping[int, Training]]) -> Iterator[dict[str, object]]:
    """Yield the minutes of LEAFE over those of GRPO until GRPO's last value, where both reach it with every seed."""
    for figure in next(iter(best[GRPO].values())).changes:
        minutes: list[list[float]] = []
        for seed, theirs in best[GRPO].items():
            change = theirs.changes.get(figure)
            if change and change.difference.low > 0:
                points = [run.reaches(figure, change.last) for run in (best[LEAFE][seed], theirs)]
                minutes.append([point.costs["minutes"] for point in points if point])
        if minutes and all(len(each) == 2 for each in minutes):
            ours, theirs_minutes = zip(*minutes, strict=True)
            yield ratio(f"minutes until GRPO's last {figure}", GRPO, ours, theirs_minutes, "at most 0.5")


def draw(best: Mapping[str, Mapping[int, Training]], path: Path) -> None:
    """Draw each figure over the minutes of training, a line for each run. Needs matplotlib."""
    from matplotlib.figure import Figure

    names = list(next(iter(best[LEAFE].values())).changes)
    figure = Figure(figsize=(4 * len(names), 3.2), layout="constrained")
    for name, axes in zip(names, figure.subplots(1, len(names), squeeze=False)[0], strict=True):
        for style, (contestant, runs) in zip(("-o", "--s"), best.items(), strict=True):
            for run in runs.values():
                times, values = zip(*_curve(run, name), strict=True)
                label = f"{contestant}, {run.rate}, seed {run.seed}"
                axes.plot(times, values, style, color="black" if contestant == LEAFE else "0.5", label=label)
        axes.set(xlabel="minutes of training", ylabel=f"{name}, %", ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize="small")
    figure.savefig(path, format="svg")


def _curve(run: Training, figure: str) -> Iterator[tuple[float, float]]:
    first = run.points[0]
    for point in run.points:
        if change := estimate_changes(first.validation, point.validation).get(figure):
            yield point.costs["minutes"], 100 * change.last


if __name__ == "__main__":
    main()
