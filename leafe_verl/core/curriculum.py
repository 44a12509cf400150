"""Which tasks a pass over them leaves out: those that nobody ever solves, and those that everybody solves.

Neither teaches much: without a success there is no target, and without a failure there is nothing to recover from. What
a task is worth is estimated from its latest attempts, and no task is ever left out for good.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TaskOutcomes:
    """What came of the latest attempts at one task, roots and branches."""

    attempts: int = 0
    """Scored attempts. 0: nothing is known of the task."""
    solved: int = 0
    """Those that ended in success."""

    def __post_init__(self) -> None:
        if not 0 <= self.solved <= self.attempts:
            raise ValueError(f"{self.solved} of {self.attempts} attempts are said to have solved a task")


def pass_share(outcomes: TaskOutcomes, floor: float) -> float:
    """Return the probability that a pass holds a task, from `floor` to 1.

    It is how much two further attempts are expected to differ, p(1 - p) for a probability p of success, as a share of
    what is expected of an unknown task. All p are taken for equally likely before the first attempt (Laplace's rule),
    so that few attempts say little: after 4, 8 and 16 failures, or as many successes, 0.71, 0.49 and 0.30 are left.
    """
    successes, failures = outcomes.solved + 1, outcomes.attempts - outcomes.solved + 1
    whole = successes + failures
    expected = successes * failures / (whole * (whole + 1))
    return min(1.0, max(floor, 6 * expected))  # 1/6 is expected of an unknown task


def draw_pass(shares: Sequence[float], batch: int, chance: random.Random) -> list[int]:
    """Return the indices of the tasks of one pass in random order, each at most once.

    A pass has whole batches. It is filled up with the tasks that were nearly drawn, and loses those that were barely
    drawn where there are too few tasks. Raises ValueError if there are fewer tasks than one batch.
    """
    if not 1 <= batch <= len(shares):
        raise ValueError(f"a pass over {len(shares)} tasks holds no batch of {batch}")
    # A task is drawn if its number is below its share, which is: if their quotient is below 1.
    quotients = [chance.random() / share for share in shares]
    drawn = sum(quotient < 1 for quotient in quotients)
    batches = min(max(1, -(-drawn // batch)), len(shares) // batch)
    chosen = sorted(range(len(shares)), key=quotients.__getitem__)[: batches * batch]
    chance.shuffle(chosen)
    return chosen
