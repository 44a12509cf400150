"""What a training step costs: LEAFE's against GRPO's, for as many environment steps.

    python tests/benchmarks/step.py --steps 2

Both run their recipe on the same tasks with the same model and as many attempts at a task; an attempt may end early and
a tree be solved before its budget is spent, so seconds are those of a step by the environment steps in it. The first
step of a run is left out with `--warm-up 1`. Prints a table and, last, a line of JSON.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

from runs import median_and_spread, metrics_of, print_table, ratio

ATTEMPTS = 8
CONTESTANTS = {
    "this": ("leafe_mbpp", f"leafe.budget.attempts={ATTEMPTS}"),
    "verl's GRPO": ("grpo_mbpp", f"actor_rollout_ref.rollout.n={ATTEMPTS}"),
}
PARTS = ("gen", "old_log_prob", "adv", "update_actor", "update_weights")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2, help="of training, of each")
    parser.add_argument("--warm-up", type=int, default=0, help="first steps that are left out")
    parser.add_argument("--tasks", type=int, default=8, help="of a step")
    options = parser.parse_args(arguments)
    found = {}
    for name, (recipe, *overrides) in CONTESTANTS.items():
        limits = (f"trainer.total_training_steps={options.steps}", f"data.train_batch_size={options.tasks}")
        quiet = ("trainer.val_before_train=false", "trainer.test_freq=-1", "trainer.save_freq=-1")
        found[name] = metrics_of(recipe, *overrides, *limits, *quiet)[options.warm_up :]
    costs = {name: [_milliseconds(step, "step") for step in steps] for name, steps in found.items()}
    rows = []
    for name, each in costs.items():
        parts = {part: statistics.mean(_milliseconds(step, part) for step in found[name]) for part in PARTS}
        spent = ", ".join(f"{part} {value:.0f}" for part, value in parts.items() if value)
        rows.append([name, len(each), median_and_spread(each), spent])
    ratios = [ratio("a step, by its environment steps", "verl's GRPO", *costs.values(), "at most 0.8")]
    print_table(["step of", "steps", "ms of an environment step", "of that"], rows, {"ms": costs, "ratios": ratios})


def _milliseconds(metrics: dict[str, float], part: str) -> float:
    return 1000 * metrics.get(f"timing_s/{part}", 0.0) / metrics["leafe/environment_steps"]


if __name__ == "__main__":
    main()
