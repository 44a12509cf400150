"""Trains until as many environment steps are spent as another method spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from leafe_verl.checkpoints import read_tracker
from leafe_verl.evaluation.summary import lost_steps, read_metrics

TRAINING_SUMS = ("environment_steps", "sampled_tokens", "trained_tokens", "updates")
"""Metrics under `leafe/` that are summed over the steps of a training run."""
TOLERANCE = 0.05
"""Share of the budget by which a method may miss it."""


def trained_steps(run_dir: Path) -> int:
    """Return the training step of the last checkpoint; 0 if there is none."""
    return read_tracker(run_dir / "checkpoints") or 0


def spent(run_dir: Path, last: int | None = None) -> dict[str, float]:
    """Return what a training run spent in its first `last` steps; None: in all of them, up to its last checkpoint.

    Raises ValueError if the metrics of one of these steps are missing: a run that is killed between a checkpoint and
    its metrics goes on behind that step.
    """
    metrics = read_metrics(run_dir)
    if lost := lost_steps({0: {}, **metrics}, last or max(trained_steps(run_dir), *metrics)):
        raise ValueError(
            f"{run_dir} has no metrics of steps {', '.join(map(str, lost))}, so that what it spent is unknown; remove "
            "that folder, so that it is trained anew"
        )
    steps = [values for step, values in metrics.items() if 0 < step <= (last or step)]
    return {name: sum(values.get(f"leafe/{name}", 0) for values in steps) for name in TRAINING_SUMS}


def steps_for(budget: float, most_of_a_step: float, done: int, used: float) -> int:
    """Return the number of training steps that come nearest to the budget.

    Args:
        budget: Environment steps to spend.
        most_of_a_step: The most that a training step can spend, which is assumed where nothing is known yet.
        done: Number of training steps so far.
        used: Environment steps that they spent.
    """
    if not done:
        return max(1, int(budget // most_of_a_step))
    if not used:
        raise ValueError(f"{done} training steps spent no environment step; expected an environment that can be played")
    return done + max(0, round((budget - used) * done / used))


def train_to_budget(run_dir: Path, budget: float, most_of_a_step: float, train: Callable[[int], None]) -> int:
    """Train until the budget is spent as nearly as whole steps allow, and return the number of steps.

    `train` trains up to that many steps, from the last checkpoint on.
    """
    while True:
        done = trained_steps(run_dir)
        used = spent(run_dir, done)["environment_steps"] if done else 0.0
        wanted = steps_for(budget, most_of_a_step, done, used)
        if wanted <= done:
            return done
        train(wanted)
        if trained_steps(run_dir) < wanted:
            raise ValueError(f"{run_dir} has no checkpoint of step {wanted}; expected one when its training has ended")


def require_no_more(run_dir: Path, budget: float) -> None:
    """Raise ValueError for a training that has gone on beyond a budget at which its weights are wanted."""
    done = trained_steps(run_dir)
    used = spent(run_dir, done)["environment_steps"]
    if used - used / done > budget:  # without its last step it had not come to the budget
        raise ValueError(
            f"{run_dir} has spent {used:.0f} environment steps, and its weights are wanted at {budget:.0f}; remove "
            "that folder, so that it is trained anew"
        )


def describe_misses(shares: Mapping[str, float]) -> list[str]:
    """Say which methods did not spend the budget, given the share of it that each spent."""
    return [
        f"{name} spent {100 * share:.1f} % of the budget of environment steps"
        for name, share in shares.items()
        if abs(share - 1) > TOLERANCE
    ]
