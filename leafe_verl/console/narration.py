"""Tells a run in lines of plain text: one for the end of each phase, and few while a phase lasts.

What is said of a step's losses and validation comes from its metrics, which verl writes when the step has ended.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from leafe_verl.activity import FAILED, STOPPED
from leafe_verl.evaluation.summary import pass_at_k_values
from leafe_verl.evaluation.tables import percent
from leafe_verl.report.present import collected_text, describe_present, seconds_text, step_text
from leafe_verl.report.progress import Progress

HEARTBEATS = (60.0, 180.0, 300.0)
"""Seconds of silence before the first, the second and each further line of a run that says how far a phase is."""
PAST = {"collecting": "collected", "distilling": "distilled", "training": "trained on"}
"""Phases whose end is told at once, with their past tense. The end of validation is told with its metrics."""
TOTAL_LOSS = re.compile(r"\w+/loss")
"""Without its terms, `loss_*`."""


@dataclass
class Narrator:
    """Says what is new, one look after the other."""

    _last: Progress | None = None
    _told: int = -1
    """The last step whose metrics were told."""
    _spoke: float = 0.0
    """When it last said something, in seconds since the epoch."""
    _beats: int = 0
    """Number of lines that said how far a phase is."""

    def lines(self, progress: Progress, now: float, *, heartbeats: bool = True) -> list[str]:
        """Return what there is to say. `now` is in seconds since the epoch."""
        if self._last is None:  # what an earlier process of the run did is not news
            self._told = max(progress.metrics, default=-1)
        self._told = min(self._told, progress.done)  # a resumed run repeats the steps behind its checkpoint
        said = [*self._phase_end(progress, now), *self._new_metrics(progress)]
        if self._last is None or said:
            self._spoke = now
        elif heartbeats and now - self._spoke >= HEARTBEATS[min(self._beats, len(HEARTBEATS) - 1)]:
            self._spoke, self._beats = now, self._beats + 1
            said = [describe_present(progress, now)]
        self._last = progress
        return said

    def _phase_end(self, progress: Progress, now: float) -> Iterator[str]:
        """Say what a phase came to, once another one has begun."""
        before, present = self._last.activity if self._last else None, progress.activity
        if before is None or present is None or (before.name, before.step) == (present.name, present.step):
            return
        if before.name in PAST and present.name not in (FAILED, STOPPED):
            what = before.detail or (f"{before.total:,} {before.unit}" if before.total else "")
            figures = [f"{PAST[before.name]} {what}".strip(), *collected_text(before, progress)]
            ended = now if present.over else present.began
            yield f"{step_text(before)}{', '.join(figures)} in {seconds_text(ended - before.began)}"

    def _new_metrics(self, progress: Progress) -> Iterator[str]:
        """Say the losses and Pass@k of the steps that have ended since the last look."""
        for step in sorted(step for step in progress.metrics if step > self._told):
            self._told = step
            figures = [*_losses(progress.metrics[step]), *_passes(progress.metrics[step])]
            if figures:
                yield f"{f'step {step}' if step else 'before training'}: {', '.join(figures)}"


def _losses(values: Mapping[str, float]) -> Iterator[str]:
    for name, loss in sorted(values.items()):
        if TOTAL_LOSS.fullmatch(name):
            yield f"{'loss' if name == 'actor/loss' else name} {loss:.3g}"


def _passes(values: Mapping[str, float]) -> Iterator[str]:
    """Yield Pass@1, the Pass@k of the largest k, and recovery of each data source."""
    found = pass_at_k_values(values)
    sources = sorted({source for source, _ in found})
    for source in sources:
        ks = sorted(k for name, k in found if name == source)
        of = f", {source}" if len(sources) > 1 else ""
        yield from (f"Pass@{k}{of} {percent(found[source, k])} %" for k in sorted({ks[0], ks[-1]}))
        if (recovery := values.get(f"val-core/{source}/recovery")) is not None:
            yield f"recovery{of} {percent(recovery)} %"
