"""Logs a step's most telling branches, with pictures of their trees, to W&B and TensorBoard.

verl logs only numbers to the trackers of `trainer.logger`. This module logs tables and pictures to the same trackers.
"""

from __future__ import annotations

import html
import logging
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from leafe_verl.plugin.trackers import TRACKERS
from leafe_verl.trees.picture import Shape, draw_shape
from leafe_verl.trees.telling import TellingBranch
from leafe_verl.trees.text import visible

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)

TABLE = "leafe/branches"
"""Name of the table of branches in a tracker."""
PICTURE = "leafe/tree"
"""Name of the pictures of trees in a tracker."""
_WRAPPER = textwrap.TextWrapper(width=100, expand_tabs=False, replace_whitespace=False, drop_whitespace=False)
"""Wraps lines, because TensorBoard does not."""
ENTITIES = str.maketrans({"`": "&#96;", "~": "&#126;", "\n": "&#10;"})
"""Characters that TensorBoard's Markdown could take for a code fence, with the HTML entities that replace them."""
Rows = Sequence[Sequence[str | int | float | bool | None]]
"""The table's rows: for each branch, its values for COLUMNS."""
Pictures = Sequence[np.ndarray]
"""RGB pictures, each of shape (height, width, 3) and type uint8."""
COLUMNS = (
    "task",
    "blamed step",
    "experience",
    "failed action",
    "revised action",
    "best return before",
    "best return after",
    "improved",
    "whose experience",
)


def track(trackers: Mapping[str, Any], branches: Sequence[TellingBranch], step: int) -> None:
    """Log the branches of training step `step`. `trackers` is verl's `Tracking.logger`: trackers by their names."""
    if not branches or not TRACKERS & trackers.keys():
        return
    rows = [build_row(branch) for branch in branches]
    pictures = draw(branches)
    if "tensorboard" in trackers:
        _to_tensorboard(trackers["tensorboard"].writer, rows, pictures, step)
    if "wandb" in trackers:
        _to_wandb(trackers["wandb"], rows, pictures, step)


def build_row(branch: TellingBranch) -> list[str | int | float | bool | None]:
    """Return the branch's values for COLUMNS. Lone surrogates, which trackers cannot store, are made visible."""
    return [
        visible(branch.task_key),
        branch.step,
        visible(branch.experience),
        visible(branch.failed_action),
        visible(branch.revised_action),
        branch.before if math.isfinite(branch.before) else None,
        branch.after if math.isfinite(branch.after) else None,
        branch.improved,
        "the model's" if branch.parsed else "the fallback's",
    ]


def draw(branches: Sequence[TellingBranch]) -> Pictures:
    """Return pictures of the branches' trees; an empty list, after a warning, if matplotlib is missing."""
    try:
        return [_pixels(branch.shape) for branch in branches]
    except ValueError as error:
        logger.warning("%s; or set leafe.tracking.branches=0", error)
        return []


def _pixels(shape: Shape) -> np.ndarray:
    figure = draw_shape(shape)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


def _to_tensorboard(writer: SummaryWriter, rows: Rows, pictures: Pictures, step: int) -> None:
    writer.add_text(TABLE, html_table(rows), step)
    for number, picture in enumerate(pictures):
        writer.add_image(f"{PICTURE}/{number}", picture, step, dataformats="HWC")


def html_table(rows: Rows) -> str:
    """Return the table as HTML, which TensorBoard's Markdown accepts. Its `pre` keeps the line breaks of actions."""
    heading = "".join(f"<th>{name}</th>" for name in COLUMNS)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{heading}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    if isinstance(value, str):
        wrapped = "\n".join(_WRAPPER.fill(line) for line in value.split("\n"))
        return f"<td><pre>{html.escape(wrapped).translate(ENTITIES)}</pre></td>"
    shown = "–" if value is None else ("yes" if value else "no") if isinstance(value, bool) else f"{value:g}"
    return f"<td>{shown}</td>"


def _to_wandb(wandb: Any, rows: Rows, pictures: Pictures, step: int) -> None:
    """Log to W&B. `wandb` is the module, which verl keeps as the tracker."""
    table = wandb.Table(columns=list(COLUMNS), data=[list(row) for row in rows])
    # Pictures are logged beside the table: W&B keeps pictures in a table only if a server receives them meanwhile.
    shown = [wandb.Image(picture, caption=row[0]) for row, picture in zip(rows, pictures, strict=False)]
    wandb.log({TABLE: table, **({PICTURE: shown} if shown else {})}, step=step)
