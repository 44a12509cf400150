"""`leafe-verl watch`: show a training run's figures in the terminal while it goes on, or as a picture."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from leafe_verl.evaluation.manifest import FILE
from leafe_verl.evaluation.metric_lines import LOSS
from leafe_verl.evaluation.recovery import UNKNOWN
from leafe_verl.report.overview import share_figures, validation_figures
from leafe_verl.report.present import describe_parts
from leafe_verl.report.progress import CHECKPOINTS, Interval, LastExperience, Progress, RunFollower
from leafe_verl.run_settings import CONFIGURATION
from leafe_verl.trees.text import one_line

NAME_CHARACTERS, LINE_CHARACTERS, EXPERIENCE_CHARACTERS = 60, 200, 600
PICTURE_COLUMNS = 110
TRANSCRIPT = "console.txt"
"""File in RUN_DIR with the lines that the run's launcher has printed."""
TRACES = (TRANSCRIPT, CONFIGURATION, CHECKPOINTS)
"""What a run leaves in its folder, beside its metrics."""
EXPECTED = "expected RUN_DIR of a recipe"
SILENT_SECONDS = 60
"""Seconds of silence after which the frame says when the run last wrote something."""
RATES = {
    "attempts a minute": ("attempts", 60),
    "environment steps a second": ("environment_steps", 1),
    "sampled tokens a second": ("sampled_tokens", 1),
}
"""Label -> count of core.statistics, and the seconds in the label's unit of time."""


def watch(folder: Path, *, once: bool = False, interval: float = 2.0, console: Console | None = None) -> int:
    """Show the run in `folder` until its last step ends, and return 0. Without a TTY, print one frame and return.

    Raises ValueError for an evaluation, for a file, and for trees of an unsupported version.
    """
    _refuse_others(folder)
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
    except KeyboardInterrupt:  # Ctrl-C is how a user stops watching
        pass
    return 0


def write_picture(folder: Path, out: Path) -> int:
    """Write what a run's terminal shows as an SVG file, or as watch.svg in a folder, print its path, and return 0.

    These are the lines that the run has printed so far, and its figures while it goes on. Raises ValueError where there
    is no run.
    """
    _refuse_others(folder)
    if not any((folder / trace).exists() for trace in TRACES) and not any(folder.glob("metrics-*.jsonl")):
        raise ValueError(f"{folder} holds no run; {EXPECTED}")
    out = out / "watch.svg" if out.is_dir() else out
    console = Console(record=True, width=PICTURE_COLUMNS, file=io.StringIO(), force_terminal=True)
    transcript = folder / TRANSCRIPT
    if transcript.is_file():
        for line in transcript.read_text(encoding="utf-8").splitlines():
            console.print(line, markup=False)
    if not (progress := RunFollower(folder).look()).ended:
        console.print(frame(progress))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(console.export_svg(title=progress.name, unique_id="leafe"), encoding="utf-8")
    print(f"written: {out}")
    return 0


def _refuse_others(folder: Path) -> None:
    if (folder / FILE).is_file():
        raise ValueError(f"{folder} is an evaluation; expected RUN_DIR of a training run, as the recipes name it")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} holds no run; {EXPECTED}")


def frame(progress: Progress) -> RenderableType:
    """Return what is shown at one moment. `_text` strips control sequences from all text that comes from the run."""
    parts = Table.grid()
    parts.add_row(_heading(progress))
    if progress.activity and (said := describe_parts(progress.activity, progress, time.time())):
        parts.add_row(_text(", ".join(said), LINE_CHARACTERS))
    if progress.plan.steps:
        parts.add_row(ProgressBar(total=progress.plan.steps, completed=_steps_done(progress)))
    parts.add_row(_table(progress))
    if progress.last_experience:
        parts.add_row(_panel(progress.last_experience))
    return parts


def _text(text: str, characters: int = NAME_CHARACTERS, style: str = "") -> Text:
    return Text(one_line(text, characters), style)


def _heading(progress: Progress) -> Text:
    step = min(progress.done + 1, progress.plan.steps or progress.done + 1)
    of = f" of {progress.plan.steps}" if progress.plan.steps else ""
    heading = Text.assemble(_text(progress.name, style="bold"), f"  step {step}{of}: ", (progress.stage, "bold"))
    silent = (datetime.now(UTC) - progress.written).total_seconds() if progress.written else 0
    if silent > SILENT_SECONDS and not progress.ended:
        heading.append(f"  nothing written for {silent / 60:,.0f} min", "yellow")
    return heading


def _steps_done(progress: Progress) -> float:
    """Return the finished steps plus a fraction for the current one: collecting its trees is about half of a step."""
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
    """Yield a label, and its value in this step, in the last step, and in the whole run."""
    intervals = (progress.current, progress.last, progress.whole)
    current, last, whole = (f"{interval.counts.get('trees', 0):,.0f}" for interval in intervals)
    yield "trees", f"{current} of {progress.plan.trees}" if progress.plan.trees else current, last, whole
    for label, (count, seconds) in RATES.items():
        current, last, whole = (_rate(interval, count, seconds) for interval in intervals)
        yield label, current, last, whole
    current_shares, last_shares, _ = (
        {row[0]: row[1] for row in share_figures(interval.counts)} for interval in intervals
    )
    for label, value, explanation in share_figures(progress.whole.counts):
        now, before = (shares.get(label, UNKNOWN) for shares in (current_shares, last_shares))
        yield label, now, before, f"{value} ({explanation})"
    for name, loss in sorted(progress.metrics.get(progress.done, {}).items()):
        if LOSS.fullmatch(name):
            yield name, "", f"{loss:.4g}", ""
    for label, value, _ in validation_figures(progress.metrics):
        yield label, "", "", value


def _rate(interval: Interval, count: str, seconds: int) -> str:
    rate = interval.rate(count)
    return UNKNOWN if rate is None else f"{rate * seconds:,.1f}"


def _panel(last_experience: LastExperience) -> Panel:
    outcome = {True: "a branch improved", False: "no branch improved", None: "no branch used it"}[
        last_experience.improved
    ]
    where = f", step {last_experience.reflection.step} of attempt {last_experience.attempt}: {outcome}"
    return Panel(
        _text(last_experience.reflection.experience, EXPERIENCE_CHARACTERS),
        title=Text.assemble("last experience, task ", _text(last_experience.task_key, 40), where),
        title_align="left",
    )
