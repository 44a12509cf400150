"""Reads trees for the report: those of a training run with the examples drawn from them, and those of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from leafe_verl.core import Example, ExplorationTree, build_examples
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.report.sources import ReportedTree
from leafe_verl.trees import Location, index, read_rows, read_tree
from leafe_verl.trees.reader import batch_reader, join_trees

KEPT_BATCHES = 256
"""Record batches of an evaluation that are kept in memory, of some 100 KB each: attempts of a task are spread."""


def training_trees(
    store: Path, settings: DistillationSettings, seed: int | None, run: str | None = None
) -> Iterator[ReportedTree]:
    """Read the store's trees in the order of their training steps and tasks.

    The examples are those that training drew: `build_examples` depends only on the tree, the settings and the seed.

    Args:
        seed: The seed of the run that trained on them. None: it is not known, and each tree's own is taken.
        run: Name of the run whose trees are read; None: those of all.
    """
    places, read = index(store), batch_reader()
    chosen = [key for key in places if run in (None, key.run)]
    for key in sorted(chosen, key=lambda key: (key.run or "", -1 if key.step is None else key.step, key.task_key)):
        tree, provenance = read_tree(places[key], read)
        examples, note = draw_examples(tree, settings, (provenance.seed or 0) if seed is None else seed)
        yield ReportedTree(tree, examples, provenance.step, has_tokens=provenance.has_tokens, note=note)


def draw_examples(
    tree: ExplorationTree, settings: DistillationSettings, seed: int
) -> tuple[tuple[Example, ...], str | None]:
    """Return the tree's examples and None, or no examples and the reason."""
    try:
        return tuple(build_examples(tree, settings, seed)), None
    except ValueError as error:  # one odd tree must not cost the report of ten thousand
        return (), f"No example can be drawn from this tree: {error}"


def evaluation_trees(store: Path, *, explores: bool) -> Iterator[ReportedTree]:
    """Read the trees of an evaluation. The plain attempts of a task, or of a given history, are the roots of one tree.

    The store is read twice, so that memory holds one task's trees at a time, and the batches that were read last.
    """
    read = batch_reader(KEPT_BATCHES)
    places: dict[tuple[str, str | None, int], list[Location]] = {}
    for number, (location, row) in enumerate(read_rows(store, ("task_key", "history_key"))):
        start = row["task_key"], row["history_key"], number if explores else 0
        places.setdefault(start, []).append(location)
    for locations in places.values():
        tree = join_trees([read_tree(location, read)[0] for location in locations])
        paths = [tree.path(index) for index, attempt in enumerate(tree.attempts) if attempt.branch is None]
        has_prompts = all(path[0].history.messages for path in paths if path)
        yield ReportedTree(tree, has_tokens=False, has_prompts=has_prompts)
