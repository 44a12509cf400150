"""Draws a tree where no browser does, from its shape: rows are attempts, columns are steps.

The picture is the same as that of report/page/picture.js, which a reader can click through.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from leafe_verl.core import ExplorationTree, Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVELS = ("#f3e3d8", "#e5d9a8", "#b9d9a0", "#4f8f78", "#12506b")
"""Colours from the tree's lowest return to its highest, as in report/page/tree.css."""
ON_LEVELS = ("#1b1f24", "#1b1f24", "#1b1f24", "#05130d", "#ffffff")
LINE, BRANCH_LINE = "#1b1f24", "#0a58b8"
COLUMN, ROW = 0.75, 0.5
"""Size of a cell in inches."""
LEFT, RIGHT = 1.2, 2.4
"""Width, in columns, of the space for the attempts' numbers and for their outcomes."""
LANE = 0.1
"""Distance, in columns, of the lines of branches that roll back to the same step of different attempts."""


class AttemptShape(NamedTuple):
    """The parts of an attempt that a picture shows."""

    parent: int | None
    """Index of the attempt that it branched from; None for a root."""
    start: int
    """First step that is shown: tau for a branch, or 1 for a root, whose given steps are shown as well."""
    returns: Sequence[float]
    """Sum of the rewards along the path, after each of its own steps."""
    errors: Sequence[bool]
    """Whether the feedback reports an error, for each of its own steps."""
    outcome: str
    """Value of core.Outcome."""


Shape = Sequence[AttemptShape]


def build_shape(tree: ExplorationTree) -> Shape:
    """Return the shape of a tree, one entry for each attempt."""
    return [_attempt_shape(tree, index) for index in range(len(tree.attempts))]


def _attempt_shape(tree: ExplorationTree, index: int) -> AttemptShape:
    attempt, branch = tree.attempts[index], tree.attempts[index].branch
    start = branch.step if branch else 1
    path = tree.path(index)
    returns = itertools.accumulate(step.reward for step in path)
    return AttemptShape(
        parent=branch.parent if branch else None,
        start=start,
        returns=list(returns)[start - 1 :],
        errors=[step.error for step in path[start - 1 :]],
        outcome=attempt.outcome.value,
    )


def draw_shape(shape: Shape) -> Figure:
    """Return the picture. Raises ValueError that names the extra to install if matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(
            f"the picture needs matplotlib ({error}); install it with: pip install 'leafe-verl[plots]'"
        ) from None
    steps = max((attempt.start + len(attempt.returns) - 1 for attempt in shape), default=1)
    figure = Figure(figsize=((steps - 1 + LEFT + RIGHT) * COLUMN, (len(shape) + 1) * ROW), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(1 - LEFT, steps + RIGHT), ylim=(len(shape) - 0.5, -1.5))
    axes.axis("off")
    for t in range(1, steps + 1):
        axes.text(t, -1, f"step {t}", ha="center", va="center", fontsize=8, color="0.35")
    for index in range(len(shape)):
        _draw_path(axes, shape, index)
        _draw_steps(axes, shape, index)
        _draw_names(axes, shape, index)
    return figure


def _draw_names(axes: Axes, shape: Shape, index: int) -> None:
    attempt = shape[index]
    outcome = Outcome(attempt.outcome)
    mark = "✓" if outcome is Outcome.SUCCESS else "✗" if outcome.scored else "?"
    ending = f"{mark} {outcome.value.replace('_', ' ')}"
    # Lines of other attempts may pass behind the text.
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axes.text(1.1 - LEFT, index, f"#{index}", va="center", fontsize=8)
    axes.text(_last_step(attempt) + 0.4, index, ending, va="center", fontsize=8, bbox=ground, zorder=2)


def _last_step(attempt: AttemptShape) -> int:
    return attempt.start + max(len(attempt.returns) - 1, 0)


def _draw_path(axes: Axes, shape: Shape, index: int) -> None:
    """Draw the line along an attempt's own steps. A branch's line comes down from its rollback point."""
    attempt, end = shape[index], _last_step(shape[index])
    if attempt.parent is None:
        axes.plot([attempt.start - 0.5, end], [index, index], color=LINE, zorder=1)
        return
    above = _state_row(shape, attempt.parent, attempt.start)
    x = _rollback_x(shape, attempt.start, above)
    axes.plot([x, x, end], [above, index, index], color=BRANCH_LINE, linestyle="--", zorder=1)
    axes.plot([x], [above], marker="D", markersize=7, color="white", markeredgecolor=BRANCH_LINE, zorder=3)


def _rollback_x(shape: Shape, start: int, row: int) -> float:
    """Return the x of a rollback point. Points before the same step in different rows are drawn side by side."""
    parents = [each.parent for each in shape if each.parent is not None and each.start == start]
    rows = sorted({_state_row(shape, parent, start) for parent in parents})
    return start - 0.5 + LANE * (rows.index(row) - (len(rows) - 1) / 2)


def _state_row(shape: Shape, index: int, step: int) -> int:
    """Return the row that holds the state before a step. A branch takes its first state from its parent."""
    parent = shape[index].parent
    return index if parent is None or step > shape[index].start else _state_row(shape, parent, step)


def _draw_steps(axes: Axes, shape: Shape, index: int) -> None:
    attempt = shape[index]
    marks = zip(itertools.count(attempt.start), attempt.returns, attempt.errors, strict=False)
    for t, value, error in marks:
        level = _level(shape, value)
        marker = "s" if error else "o"
        axes.plot([t], [index], marker=marker, markersize=21, color=LEVELS[level], markeredgecolor=LINE, zorder=3)
        axes.text(t, index, f"{value:.3g}", ha="center", va="center", fontsize=8, color=ON_LEVELS[level], zorder=4)


def _level(shape: Shape, value: float) -> int:
    returns = [each for attempt in shape for each in attempt.returns if math.isfinite(each)]
    low, high = min(returns, default=0.0), max(returns, default=0.0)
    if high == low or not math.isfinite(value):
        return len(LEVELS) - 1 if value > 0 else 0
    return min(len(LEVELS) - 1, int((value - low) / (high - low) * len(LEVELS)))
