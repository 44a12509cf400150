"""What a report is made of: runs, and their trees one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from leafe_verl.core import Example, ExplorationTree
from leafe_verl.evaluation.summary import Metrics

Vocabulary = Callable[[int], str]
"""Token id -> the text it stands for, as far as a token alone has one."""


@dataclass(frozen=True)
class ReportedTree:
    """A tree, and what was made of it."""

    tree: ExplorationTree
    examples: tuple[Example, ...] = ()
    step: int | None = None
    """Training step that collected it; None outside training."""
    verbatim: bool = True
    """Whether prompts and tokens were stored. False: the histories hold the turns alone, without the opening prompt."""
    note: str | None = None
    """What a reader must know of this tree."""


@dataclass(frozen=True)
class Run:
    """One training run or evaluation."""

    name: str
    trees: Iterable[ReportedTree]
    """Read once, in the order of the list."""
    metrics: Metrics = field(default_factory=dict)
    """Empty where nothing was trained."""
    results: Mapping[str, list[bool]] = field(default_factory=dict)
    """Of an evaluation: task key -> whether each of its scored attempts, or trees, succeeded."""
    counts: Mapping[str, int] | None = None
    """Of an evaluation, core.statistics' counts of all that was played; None: they are taken from the trees."""
    explores: bool = False
    """Of an evaluation: whether its results are those of trees."""
    vocabulary: Vocabulary | None = None
    """None: token ids are shown as numbers."""
    notes: tuple[str, ...] = ()
    """What a reader must know of this run."""
