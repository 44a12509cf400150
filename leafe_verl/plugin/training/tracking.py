"""A step's most telling branches, with pictures of their trees, to W&B and TensorBoard where verl's tracking has them.

verl passes numbers alone to the trackers of `trainer.logger`; what else there is to see goes to the same trackers here.
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
PICTURE = "leafe/tree"
_WRAPPER = textwrap.TextWrapper(width=100, expand_tabs=False, replace_whitespace=False, drop_whitespace=False)
"""TensorBoard itself wraps no line."""
ENTITIES = str.maketrans({"`": "&#96;", "~": "&#126;", "\n": "&#10;"})
"""What Markdown would take for the fence of a code block, wherever it stands."""
Rows = Sequence[Sequence[str | int | float | bool | None]]
"""A branch's values of COLUMNS, of each branch."""
Pictures = Sequence[np.ndarray]
"""[height, width, 3] of bytes each."""
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
    """Log the branches of training step `step`; `trackers` are those of verl's `Tracking.logger`, by name."""
    if not branches or not TRACKERS & trackers.keys():
        return
    rows = [build_row(told) for told in branches]
    pictures = draw(branches)
    if "tensorboard" in trackers:
        _to_tensorboard(trackers["tensorboard"].writer, rows, pictures, step)
    if "wandb" in trackers:
        _to_wandb(trackers["wandb"], rows, pictures, step)


def build_row(told: TellingBranch) -> list[str | int | float | bool | None]:
    """The branch's values of COLUMNS, of text that a tracker can store: lone surrogates would stop it."""
    return [
        visible(told.task_key),
        told.step,
        visible(told.experience),
        visible(told.failed_action),
        visible(told.revised_action),
        told.before if math.isfinite(told.before) else None,
        told.after if math.isfinite(told.after) else None,
        told.improved,
        "the model's" if told.parsed else "the fallback's",
    ]


def draw(branches: Sequence[TellingBranch]) -> Pictures:
    """Return pictures of the branches' trees; none, with a warning, where matplotlib is missing."""
    try:
        return [_pixels(told.shape) for told in branches]
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
    """The table as TensorBoard shows it: Markdown may hold HTML, whose `pre` keeps the lines of an action apart."""
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
    """`wandb` is the module, as verl keeps it."""
    table = wandb.Table(columns=list(COLUMNS), data=[list(row) for row in rows])
    # Beside the table: W&B keeps pictures within one only where a server takes them as it is logged.
    shown = [wandb.Image(picture, caption=row[0]) for row, picture in zip(rows, pictures, strict=False)]
    wandb.log({TABLE: table, **({PICTURE: shown} if shown else {})}, step=step)
