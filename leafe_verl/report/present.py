"""Says in words what a run does at this moment, how far it is, and how much time is left."""

from __future__ import annotations

from collections.abc import Iterator

from leafe_verl.activity import Activity
from leafe_verl.report.progress import Progress

STARTING = "starting Ray, the model and the inference server"


def describe_present(progress: Progress, now: float) -> str:
    """Return the step, the phase, how much of it is done, and the time left. `now` is in seconds since the epoch."""
    activity = progress.activity
    if activity is None or activity.name == "starting":
        return STARTING
    parts = ", ".join(describe_parts(activity, progress, now))
    return f"{step_text(activity)}{activity.name}{': ' if parts else ''}{parts}"


def describe_parts(activity: Activity, progress: Progress, now: float) -> list[str]:
    """Return how much is done, what it holds, and the time left, as phrases."""
    parts = [count_text(activity), activity.detail, *collected_text(activity, progress), left_text(progress, now)]
    return [part for part in parts if part]


def step_text(activity: Activity) -> str:
    """Return the beginning of a line about a training step; empty before the first one."""
    if activity.step == 0:
        return ""
    return f"step {activity.step} of {activity.steps}: " if activity.steps else f"step {activity.step}: "


def count_text(activity: Activity) -> str:
    """Return how much is done, as in `3 of 16 tasks`; empty if it is not counted."""
    return f"{activity.done:,} of {activity.total:,} {activity.unit}" if activity.total else ""


def collected_text(activity: Activity, progress: Progress) -> Iterator[str]:
    """Yield what the trees of the activity's step hold; nothing unless they are being collected and kept."""
    counts = (progress.last if activity.step <= progress.done else progress.current).counts
    if activity.name != "collecting" or not counts.get("trees"):
        return
    if "attempts" in counts:
        yield f"{counts['attempts']:,.0f} attempts"
    if (branches := counts.get("branches")) and "branches_improved" in counts:
        yield f"{counts['branches_improved']:,.0f} of {branches:,.0f} branches improved"
    if "solved" in counts:
        yield f"{counts['solved']:,.0f} tasks solved"


def left_text(progress: Progress, now: float) -> str:
    """Return how much time is left, for the run if that can be told, else for the phase; empty if neither can."""
    if progress.ended:
        return ""
    phase = progress.activity.seconds_left(now) if progress.activity else None
    if left := progress.seconds_left(now):
        return f"about {seconds_text(max(left, phase or 0))} left"
    return f"about {seconds_text(phase)} left of this phase" if phase is not None else ""


def seconds_text(seconds: float) -> str:
    """Return a duration as a person says it."""
    whole = round(max(seconds, 0))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 10:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
