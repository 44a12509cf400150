"""How far a training run has come, told from what it leaves on disk, and read as that grows.

The configuration says what is planned; the metrics gain a line when a step, or the validation before training, is over;
the experience store gains a tree when its task is over; the tracker names the last step whose weights were saved.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from leafe_verl.checkpoints import TRACKER
from leafe_verl.core import ExplorationTree, Reflection
from leafe_verl.core.statistics import count, total
from leafe_verl.evaluation.summary import Metrics
from leafe_verl.report.overview import counts_in, summed
from leafe_verl.report.runs import CONFIGURATION, TREES, read_configuration
from leafe_verl.trees import Provenance, StoreFollower, read_tree

CHECKPOINTS = TREES.parent


@dataclass(frozen=True)
class Plan:
    """What the run's configuration says."""

    steps: int | None = None
    """Training steps; None where the run counts epochs, or says nothing."""
    trees: int | None = None
    """Trees of one step."""
    explores: bool = False
    """Whether its steps leave trees in its own store."""
    validates_first: bool = False


@dataclass(frozen=True)
class Lesson:
    """The last experience that the model wrote, and what came of it."""

    task_key: str
    step: int | None
    """Training step."""
    attempt: int
    """The attempt that was reflected upon."""
    reflection: Reflection
    improved: bool | None
    """Whether a branch grown from it improved on that attempt; None where none was grown."""


@dataclass(frozen=True)
class Interval:
    """What was collected in some time."""

    counts: Mapping[str, float]
    """Those of core.statistics."""
    seconds: float | None = None
    """That collecting took; None where it is not known."""

    def rate(self, name: str) -> float | None:
        """So many a second."""
        return self.counts[name] / self.seconds if self.seconds and name in self.counts else None


@dataclass(frozen=True)
class Progress:
    """A run at one moment."""

    name: str
    stage: str
    """What it is doing, in a word or two."""
    plan: Plan
    done: int
    """Training steps that are over; a run that goes on from a checkpoint has done what that holds."""
    metrics: Metrics
    current: Interval
    """Of the step under way."""
    last: Interval
    """Of the last step that is over."""
    whole: Interval
    """Of the run."""
    lesson: Lesson | None
    written: datetime | None
    """When the run last wrote something; None before it has."""

    @property
    def ended(self) -> bool:
        return self.plan.steps is not None and self.done >= self.plan.steps


class MetricsFollower:
    """The metrics of a run, each line read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        """File -> byte behind its last whole line."""
        self._last_steps: dict[Path, int] = {}
        self.metrics: Metrics = {}

    def look(self) -> None:
        for path in self._folder.glob("metrics-*.jsonl"):
            for line in self._new_lines(path):
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:  # an earlier process was killed while it wrote this line
                    continue
                self._last_steps[path] = int(record["step"])
                self.metrics.setdefault(int(record["step"]), {}).update(record["data"])

    @property
    def newest(self) -> Path | None:
        """The file that the latest process writes: a run that goes on begins another one, when its set-up is over."""
        return max(self._folder.glob("metrics-*.jsonl"), default=None)

    @property
    def last_step(self) -> int | None:
        """Of the newest file; None where it is empty."""
        return self._last_steps.get(self.newest) if self.newest else None

    def _new_lines(self, path: Path) -> Iterator[bytes]:
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            for line in file:
                if line.endswith(b"\n"):
                    self._read[path] = file.tell()
                    yield line


class TreesFollower:
    """The trees of a run, as counts; those of steps that have metrics are left unread, since those count them."""

    def __init__(self, store: Path) -> None:
        self._store = StoreFollower(store)
        self._seen: set[tuple[int | None, str]] = set()
        self.counts: dict[int | None, Counter[str]] = defaultdict(Counter)
        """Training step -> counts of its trees."""
        self.collected: dict[int | None, datetime] = {}
        """Training step -> when its newest tree was collected."""
        self.lesson: Lesson | None = None

    def look(self, measured: Container[int | None]) -> None:
        """Read the new trees of steps that are not among those `measured`."""
        for added in self._store.added():
            # A file's steps only rise: behind one tree of a measured step there are only more of them.
            for location in reversed(added):
                tree, provenance = read_tree(location)
                self._add(tree, provenance)
                if provenance.step in measured:
                    break

    def _add(self, tree: ExplorationTree, provenance: Provenance) -> None:
        step, collected = provenance.step, provenance.collected_at
        if (step, tree.task.key) in self._seen:
            return
        self._seen.add((step, tree.task.key))
        self.counts[step].update(count(tree, ()))
        newest = max(self.collected.values(), default=None)
        if (newest is None or collected >= newest) and (lesson := lesson_of(tree, step)):
            self.lesson = lesson
        self.collected[step] = max(collected, self.collected.get(step, collected))


def lesson_of(tree: ExplorationTree, step: int | None) -> Lesson | None:
    """Return the tree's last experience that the model itself wrote, None without one."""
    written = [(attempt, reflection) for attempt, reflection in tree.reflections if reflection.parsed]
    if not written:
        return None
    attempt, reflection = written[-1]
    grown = [
        tree.improved(index)
        for index, branch in tree.branches()
        if (branch.parent, branch.reflection) == (attempt, reflection)
    ]
    return Lesson(tree.task.key, step, attempt, reflection, any(grown) if grown else None)


@dataclass
class RunFollower:
    """Follows one run; what one look has read, the next does not read again."""

    folder: Path
    _metrics: MetricsFollower = field(init=False)
    _trees: TreesFollower = field(init=False)
    _plans: dict[float, Plan] = field(default_factory=dict)
    """When the configuration was written -> what it plans. A run that goes on writes it anew."""

    def __post_init__(self) -> None:
        self._metrics = MetricsFollower(self.folder)
        self._trees = TreesFollower(self.folder / TREES)

    def look(self) -> Progress:
        """Return how far the run has come. Raises ValueError for trees of another version."""
        self._metrics.look()
        plan, done = self._plan(), self._metrics.last_step
        done = self._saved() if done is None else done
        # A run that goes on from a checkpoint does the steps behind it again.
        metrics = {step: values for step, values in self._metrics.metrics.items() if step <= done}
        self._trees.look(metrics.keys())
        if self._metrics.newest is None:  # without the `file` logger, trees alone tell the step
            done = max([done, *(step - 1 for step in self._trees.counts if step is not None)])
        collected = {step: counts for step, counts in self._trees.counts.items() if step not in metrics}
        current = collected.get(done + 1, Counter())
        last = metrics.get(done, {}) if done else {}
        return Progress(
            name=self.folder.resolve().name,
            stage=self._stage(plan, done, current["trees"]),
            plan=plan,
            done=done,
            metrics=metrics,
            current=Interval(current, self._seconds(done + 1)),
            last=Interval(counts_in(last), last.get("timing_s/gen")),
            whole=Interval(total([summed(metrics), *collected.values()])),
            lesson=self._trees.lesson,
            written=self._written(),
        )

    def _plan(self) -> Plan:
        path = self.folder / CONFIGURATION
        written = path.stat().st_mtime if path.is_file() else 0.0
        if written not in self._plans:
            self._plans = {written: plan_of(read_configuration(path))}
        return self._plans[written]

    def _stage(self, plan: Plan, done: int, trees: int) -> str:
        newest, last_step = self._metrics.newest, self._metrics.last_step
        if newest is None and not trees:
            return "starting" if (self.folder / CONFIGURATION).is_file() else "nothing written yet"
        if plan.steps is not None and done >= plan.steps:
            return "ended"
        if plan.validates_first and newest is not None and last_step is None:
            return "validating"
        if not plan.explores:
            return "training"
        if plan.trees is None or trees < plan.trees:
            return "exploring"
        return "validating" if self._saved() == done + 1 else "distilling"

    def _saved(self) -> int:
        """The last step that was saved, which a run goes on from; 0 without one."""
        tracker = self.folder / CHECKPOINTS / TRACKER
        text = tracker.read_text(encoding="utf-8").strip() if tracker.is_file() else ""
        return int(text) if text.isdecimal() else 0

    def _seconds(self, step: int) -> float | None:
        """From the end of the step before, when the metrics were last written, to the newest tree."""
        newest, collected = self._metrics.newest, self._trees.collected.get(step)
        if newest is None or collected is None:
            return None
        seconds = collected.timestamp() - newest.stat().st_mtime
        return seconds if seconds > 0 else None  # trees of a process that was killed are older

    def _written(self) -> datetime | None:
        written = [*self.folder.glob("metrics-*.jsonl"), *(self.folder / TREES).glob("trees-*.arrow")]
        written += [self.folder / CONFIGURATION, self.folder / CHECKPOINTS / TRACKER]
        times = [path.stat().st_mtime for path in written if path.is_file()]
        return datetime.fromtimestamp(max(times), timezone.utc) if times else None


def plan_of(configuration: Mapping[str, Any]) -> Plan:
    """Return what Hydra's record of the configuration plans; of another version's, what is still there."""

    def setting(path: str) -> Any:
        value: Any = configuration
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    once = setting("leafe.schedule.collect") == "all"
    samples = setting("leafe.schedule.stages") != "distil"
    stores = setting("trainer.v1.trainer_mode") == "leafe" and setting("leafe.collection.store") is not None
    return Plan(
        steps=1 if once else setting("trainer.total_training_steps"),
        trees=None if once else setting("data.train_batch_size"),
        explores=samples and stores,
        validates_first=samples and bool(setting("trainer.val_before_train")),
    )
