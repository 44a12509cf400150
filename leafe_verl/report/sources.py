"""Defines what a report is made of: runs, and their trees one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from leafe_verl.core import Example, ExplorationTree
from leafe_verl.evaluation.given import GivenRun
from leafe_verl.evaluation.recovery import TaskCounts
from leafe_verl.evaluation.summary import Metrics

Vocabulary = Callable[[int], str]
"""Token id -> its text, as far as a single token has one."""


@dataclass(frozen=True)
class ReportedTree:
    """A tree with the examples drawn from it."""

    tree: ExplorationTree
    examples: tuple[Example, ...] = ()
    step: int | None = None
    """Training step that collected the tree; None outside training."""
    has_tokens: bool = True
    """Whether tokens were stored. Without tokens there are no examples."""
    has_prompts: bool = True
    """Whether the opening prompts were stored. Without them, the histories begin with the first action."""
    note: str | None = None
    """What a reader must know of this tree."""


@dataclass(frozen=True)
class ReportedRun:
    """One training run or evaluation."""

    name: str
    trees: Iterable[ReportedTree]
    """Trees in the order of the list. They are read once."""
    metrics: Metrics = field(default_factory=dict)
    """Metrics of training; empty for an evaluation."""
    results: Mapping[str, list[bool]] = field(default_factory=dict)
    """Task key -> whether each scored attempt, or tree, of an evaluation succeeded; empty for a training run."""
    attempts: int | None = None
    """Number of attempts that an evaluation asked for at each task; None for a training run."""
    counts: Mapping[str, int] | None = None
    """Counts of core.statistics over all trees of an evaluation; None: they are computed from the trees."""
    given: GivenRun | None = None
    """Results of an evaluation from given histories, which has no `results`; None for any other run."""
    recovery: TaskCounts = field(default_factory=dict)
    """Counts of core.recovery_figures of each task of an evaluation; empty for a training run."""
    explores: bool = False
    """Whether the results of an evaluation are those of exploration trees."""
    vocabulary: Vocabulary | None = None
    """None: token ids are shown as numbers."""
    notes: tuple[str, ...] = ()
    """What a reader must know of this run."""
