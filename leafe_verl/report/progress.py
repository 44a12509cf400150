"""Reads how far a training run has come from the files that it writes, incrementally as they grow.

The configuration says what is planned, and the activity what goes on at this moment. The metrics gain a line when a
step, or the validation before training, ends. The tree store gains a tree when its task ends. The tracker file names
the last step whose weights were saved.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from leafe_verl.activity import FILE as ACTIVITY
from leafe_verl.activity import Activity, read_activity
from leafe_verl.checkpoints import TRACKER, read_tracker, tree_store
from leafe_verl.core import ExplorationTree, Reflection
from leafe_verl.core.recovery_figures import count_recovery, plain_attempts
from leafe_verl.core.statistics import count, total
from leafe_verl.evaluation.metric_lines import parse_line
from leafe_verl.evaluation.summary import Metrics
from leafe_verl.report.overview import select_counts, sum_counts
from leafe_verl.report.runs import TREES
from leafe_verl.run_settings import CONFIGURATION, read_configuration
from leafe_verl.trees import Provenance, StoreFollower, read_tree
from leafe_verl.trees.reader import arrow_files
from leafe_verl.trees.restarts import abandoned_by

CHECKPOINTS = TREES.parent


@dataclass(frozen=True)
class RunPlan:
    """What the run's configuration plans."""

    steps: int | None = None
    """Number of training steps; None if the run counts epochs, or if the configuration is missing."""
    trees: int | None = None
    """Number of trees collected in one step; None if unknown."""
    explores: bool = False
    """Whether the steps write trees to the run's own store."""
    validates_first: bool = False
    """Whether the run validates before training."""


@dataclass(frozen=True)
class LastExperience:
    """The last experience that the model wrote, and the result of the branches that used it."""

    task_key: str
    step: int | None
    """Training step that collected the tree; None outside training."""
    attempt: int
    """Index of the attempt that was reflected on."""
    reflection: Reflection
    improved: bool | None
    """Whether a branch that used the experience improved on that attempt; None if there is no such branch."""


@dataclass(frozen=True)
class Interval:
    """What was collected in a period of the run."""

    counts: Mapping[str, float]
    """Counts of core.statistics."""
    seconds: float | None = None
    """Seconds that collecting took; None if unknown."""

    def rate(self, name: str) -> float | None:
        """Return the count per second; None if the count or the time is unknown."""
        return self.counts[name] / self.seconds if self.seconds and name in self.counts else None


@dataclass(frozen=True)
class Progress:
    """The state of a run at one moment."""

    name: str
    stage: str
    """What the run is doing, in a word or two."""
    plan: RunPlan
    done: int
    """Number of finished training steps, including those in the checkpoint that the run resumed from."""
    metrics: Metrics
    current: Interval
    """The step under way."""
    last: Interval
    """The last finished step."""
    whole: Interval
    """The whole run; `seconds` is None."""
    last_experience: LastExperience | None
    written: datetime | None
    """When the run last wrote something; None if it has not written anything yet."""
    activity: Activity | None = None
    """What the run says that it does; None if it does not say so."""

    @property
    def ended(self) -> bool:
        """Whether the run is over, or all planned steps are finished."""
        over = self.activity is not None and self.activity.over
        return over or (self.plan.steps is not None and self.done >= self.plan.steps)

    def seconds_left(self, now: float) -> float | None:
        """Estimate the seconds until the last step ends, from those that have ended.

        None before the first one, and for a step that takes longer than they did, as one with a validation.
        """
        steps = [values for step, values in self.metrics.items() if step > 0 and "timing_s/step" in values]
        if not steps or self.plan.steps is None or self.activity is None or self.ended:
            return None
        seconds = sum(step["timing_s/step"] + step.get("timing_s/testing", 0.0) for step in steps)
        whole = seconds / len(steps) * (self.plan.steps - self.done)
        left = whole - (now - self.activity.step_began)
        return left if left > 0 else None


class MetricsFollower:
    """Reads the metrics of a run, each line once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        """File -> offset in bytes after its last complete line."""
        self._last_steps: dict[Path, int] = {}
        self.metrics: Metrics = {}

    def look(self) -> None:
        """Read the lines added since the last call."""
        for path in sorted(self._folder.glob("metrics-*.jsonl")):
            for line in self._new_lines(path):
                if parsed := parse_line(line):
                    step, values = parsed
                    if path not in self._last_steps:  # its process takes the place of earlier ones from here on
                        self.metrics = {earlier: kept for earlier, kept in self.metrics.items() if earlier <= step}
                    self._last_steps[path] = step
                    self.metrics.setdefault(step, {}).update(values)

    @property
    def newest(self) -> Path | None:
        """The file that the latest process writes. A resumed run starts a new file after its set-up."""
        return max(self._folder.glob("metrics-*.jsonl"), default=None)

    @property
    def last_step(self) -> int | None:
        """Last step in the newest file; None if that file is missing or empty."""
        return self._last_steps.get(self.newest) if self.newest else None

    def _new_lines(self, path: Path) -> Iterator[bytes]:
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            for line in file:
                if line.endswith(b"\n"):
                    self._read[path] = file.tell()
                    yield line


class TreesFollower:
    """Counts the trees of a run. Trees of steps that have metrics need not be read: the metrics already count them."""

    def __init__(self, store: Path) -> None:
        self._folder, self._store = store, StoreFollower(store)
        self._seen: set[tuple[int | None, str]] = set()
        self.counts: dict[int | None, dict[str, float]] = {}
        """Training step -> counts of core.statistics and of core.recovery_figures over its trees."""
        self.collected: dict[int | None, datetime] = {}
        """Training step -> when its newest tree was collected."""
        self.last_experience: LastExperience | None = None

    def look(self, measured: Container[int | None]) -> None:
        """Read the new trees of steps that are not in `measured`, without those that the run has given up."""
        is_abandoned = abandoned_by(self._folder)
        for added in self._store.added():
            # Steps never decrease within a file, so all trees before one of a measured step are of measured steps too.
            for location in reversed(added):
                tree, provenance = read_tree(location)
                if not is_abandoned(vars(provenance)):
                    self._add(tree, provenance)
                if provenance.step in measured:
                    break

    def _add(self, tree: ExplorationTree, provenance: Provenance) -> None:
        step, collected = provenance.step, provenance.collected_at
        if (step, tree.task.key) in self._seen:
            return
        self._seen.add((step, tree.task.key))
        counts = {**count(tree, ()), **count_recovery(plain_attempts(tree))}
        self.counts[step] = total([self.counts.get(step, {}), counts])
        newest = max(self.collected.values(), default=None)
        if (newest is None or collected >= newest) and (last_experience := find_last_experience(tree, step)):
            self.last_experience = last_experience
        self.collected[step] = max(collected, self.collected.get(step, collected))


def find_last_experience(tree: ExplorationTree, step: int | None) -> LastExperience | None:
    """Return the tree's last experience that the model itself wrote, or None if it wrote none."""
    written = [(attempt, reflection) for attempt, reflection in tree.reflections if reflection.parsed]
    if not written:
        return None
    attempt, reflection = written[-1]
    grown = [
        tree.improved(index)
        for index, branch in tree.branches()
        if (branch.parent, branch.reflection) == (attempt, reflection)
    ]
    return LastExperience(tree.task.key, step, attempt, reflection, any(grown) if grown else None)


@dataclass
class RunFollower:
    """Follows one run and reads each piece of data only once."""

    folder: Path
    _metrics: MetricsFollower = field(init=False)
    _trees: TreesFollower = field(init=False)
    _plans: dict[float, RunPlan] = field(default_factory=dict)
    """Modification time of the configuration -> its plan. A resumed run rewrites the configuration."""

    def __post_init__(self) -> None:
        self._metrics = MetricsFollower(self.folder)
        self._trees = TreesFollower(tree_store(self.folder / CHECKPOINTS))

    def look(self) -> Progress:
        """Return how far the run has come. Raises ValueError for trees of an unsupported version."""
        self._metrics.look()
        plan, done = self._plan(), self._metrics.last_step
        done = self._saved() if done is None else done
        # A run resumed from a checkpoint repeats the steps after that checkpoint.
        metrics = {step: values for step, values in self._metrics.metrics.items() if step <= done}
        kept = self._saved() or done  # until it has metrics of its own, a resumed run may still repeat what follows
        self._trees.look({step for step in metrics if step <= kept})
        if self._metrics.newest is None:  # without the `file` logger, only trees show the step
            done = max([done, *(step - 1 for step in self._trees.counts if step is not None)])
        collected = {step: counts for step, counts in self._trees.counts.items() if step not in metrics}
        return self._progress(plan, done, metrics, collected)

    def _progress(
        self, plan: RunPlan, done: int, metrics: Metrics, collected: Mapping[int | None, Mapping[str, float]]
    ) -> Progress:
        """Return the state of a run; `collected` counts the trees of the steps that have no metrics yet."""
        current = collected.get(done + 1, {})
        last = metrics.get(done, {}) if done else {}
        activity = read_activity(self.folder)
        if activity and plan.steps is None:
            plan = replace(plan, steps=activity.steps)
        return Progress(
            name=self.folder.resolve().name,
            stage=activity.name if activity else self._stage(plan, done, int(current.get("trees", 0))),
            plan=plan,
            done=done,
            metrics=metrics,
            current=Interval(current, self._seconds(done + 1)),
            last=Interval(select_counts(last), last.get("timing_s/gen")),
            whole=Interval(total([sum_counts(metrics), *collected.values()])),
            last_experience=self._trees.last_experience,
            written=self._written(),
            activity=activity,
        )

    def _plan(self) -> RunPlan:
        path = self.folder / CONFIGURATION
        written = path.stat().st_mtime if path.is_file() else 0.0
        if written not in self._plans:
            self._plans = {written: read_plan(read_configuration(path))}
        return self._plans[written]

    def _stage(self, plan: RunPlan, done: int, trees: int) -> str:
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
            return "collecting"
        return "validating" if self._saved() == done + 1 else "distilling"

    def _saved(self) -> int:
        """Return the last saved step, from which the run would resume; 0 if there is none."""
        return read_tracker(self.folder / CHECKPOINTS) or 0

    def _seconds(self, step: int) -> float | None:
        """Return the seconds from the end of the previous step (the last write of the metrics) to the newest tree."""
        newest, collected = self._metrics.newest, self._trees.collected.get(step)
        if newest is None or collected is None:
            return None
        seconds = collected.timestamp() - newest.stat().st_mtime
        return seconds if seconds > 0 else None  # trees of a killed process may be older than the metrics

    def _written(self) -> datetime | None:
        written = [*self.folder.glob("metrics-*.jsonl"), *arrow_files(tree_store(self.folder / CHECKPOINTS))]
        written += [self.folder / CONFIGURATION, self.folder / CHECKPOINTS / TRACKER, self.folder / ACTIVITY]
        times = [path.stat().st_mtime for path in written if path.is_file()]
        return datetime.fromtimestamp(max(times), UTC) if times else None


def read_plan(configuration: Mapping[str, Any]) -> RunPlan:
    """Return the plan in a configuration that Hydra recorded. Settings missing in another version are left unknown."""

    def setting(path: str) -> Any:
        value: Any = configuration
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    once = setting("leafe.schedule.collect") == "all"
    samples = setting("leafe.schedule.stages") != "distil"
    stores = setting("trainer.v1.trainer_mode") == "leafe" and setting("leafe.collection.store") is not None
    return RunPlan(
        steps=1 if once else setting("trainer.total_training_steps"),
        trees=None if once else setting("data.train_batch_size"),
        explores=samples and stores,
        validates_first=samples and bool(setting("trainer.val_before_train")),
    )
