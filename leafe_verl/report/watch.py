"""`leafe-verl watch`: a training run's figures in the terminal while it goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from leafe_verl.evaluation.manifest import FILE
from leafe_verl.report.overview import LOSS, share_figures, validation_figures
from leafe_verl.report.progress import Interval, Lesson, Progress, RunFollower
from leafe_verl.trees.text import one_line

NAME_CHARACTERS, EXPERIENCE_CHARACTERS = 60, 600
SILENT_SECONDS = 60
"""Beyond this, the frame says when the run last wrote something."""
NOTHING = "–"
RATES = {
    "attempts a minute": ("attempts", 60),
    "environment steps a second": ("environment_steps", 1),
    "sampled tokens a second": ("sampled_tokens", 1),
}
"""Label -> the count of core.statistics, and the seconds that it is given for."""


def watch(folder: Path, *, once: bool = False, interval: float = 2.0, console: Console | None = None) -> int:
    """Show the run in `folder` until its last step is over, and return 0; one frame where nobody watches a terminal.

    Raises ValueError for an evaluation, and for trees of another version.
    """
    if (folder / FILE).is_file():
        raise ValueError(f"{folder} is an evaluation; expected RUN_DIR of a training run, as the recipes name it")
    console, follower = console or Console(), RunFollower(folder)
    if once or not console.is_terminal:
        console.print(frame(follower.look()))
        return 0
    try:
        with Live(console=console, auto_refresh=False) as live:
            while not (progress := follower.look()).ended:
                live.update(frame(progress), refresh=True)
                time.sleep(interval)
            live.update(frame(progress), refresh=True)
    except KeyboardInterrupt:  # the way to stop watching
        pass
    return 0


def frame(progress: Progress) -> RenderableType:
    """All that is shown at one moment. Text of the run comes in by `_text` alone, which no terminal obeys."""
    parts = Table.grid()
    parts.add_row(_heading(progress))
    if progress.plan.steps:
        parts.add_row(ProgressBar(total=progress.plan.steps, completed=_steps_done(progress)))
    parts.add_row(_table(progress))
    if progress.lesson:
        parts.add_row(_panel(progress.lesson))
    return parts


def _text(text: str, characters: int = NAME_CHARACTERS, style: str = "") -> Text:
    return Text(one_line(text, characters), style)


def _heading(progress: Progress) -> Text:
    step = min(progress.done + 1, progress.plan.steps or progress.done + 1)
    of = f" of {progress.plan.steps}" if progress.plan.steps else ""
    heading = Text.assemble(_text(progress.name, style="bold"), f"  step {step}{of}: ", (progress.stage, "bold"))
    silent = (datetime.now(timezone.utc) - progress.written).total_seconds() if progress.written else 0
    if silent > SILENT_SECONDS and not progress.ended:
        heading.append(f"  nothing written for {silent / 60:,.0f} min", "yellow")
    return heading


def _steps_done(progress: Progress) -> float:
    """With the share of the current step's trees that are there, of which collecting is about half of a step."""
    trees = progress.plan.trees
    return progress.done + (0.5 * min(1, progress.current.counts.get("trees", 0) / trees) if trees else 0)


def _table(progress: Progress) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    for heading in ("this step", "last step", "the run"):
        table.add_column(heading, justify="right")
    for label, *cells in _rows(progress):
        table.add_row(_text(label), *(Text(cell) for cell in cells))
    return table


def _rows(progress: Progress) -> Iterator[tuple[str, str, str, str]]:
    """Label, and what it is in this step, in the last one, and in the whole run."""
    spells = (progress.current, progress.last, progress.whole)
    current, last, whole = (f"{spell.counts.get('trees', 0):,.0f}" for spell in spells)
    yield "trees", f"{current} of {progress.plan.trees}" if progress.plan.trees else current, last, whole
    for label, (count, seconds) in RATES.items():
        current, last, whole = (_rate(spell, count, seconds) for spell in spells)
        yield label, current, last, whole
    current_shares, last_shares, _ = ({row[0]: row[1] for row in share_figures(spell.counts)} for spell in spells)
    for label, value, explanation in share_figures(progress.whole.counts):
        now, before = (shares.get(label, NOTHING) for shares in (current_shares, last_shares))
        yield label, now, before, f"{value} ({explanation})"
    for name, loss in sorted(progress.metrics.get(progress.done, {}).items()):
        if LOSS.fullmatch(name):
            yield name, "", f"{loss:.4g}", ""
    for label, value, _ in validation_figures(progress.metrics):
        yield label, "", "", value


def _rate(spell: Interval, count: str, seconds: int) -> str:
    rate = spell.rate(count)
    return NOTHING if rate is None else f"{rate * seconds:,.1f}"


def _panel(lesson: Lesson) -> Panel:
    came = {True: "a branch improved", False: "no branch improved", None: "no branch grew from it"}[lesson.improved]
    where = f", step {lesson.reflection.step} of attempt {lesson.attempt}: {came}"
    return Panel(
        _text(lesson.reflection.experience, EXPERIENCE_CHARACTERS),
        title=Text.assemble("last experience, task ", _text(lesson.task_key, 40), where),
        title_align="left",
    )
