"""Trees from an experience store, with the examples that training drew from them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from leafe_verl.core import Example, ExplorationTree, build_examples
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.report.sources import ReportedTree
from leafe_verl.trees import index, read_tree


def experience_trees(store: Path, settings: DistillationSettings, seed: int) -> Iterator[ReportedTree]:
    """Read the store's trees, in the order of their training steps and tasks.

    The examples are drawn as training drew them: `build_examples` depends on nothing but the tree, settings and seed.
    """
    places = index(store)
    for key in sorted(places, key=lambda key: (key.run or "", -1 if key.step is None else key.step, key.task_key)):
        tree, provenance = read_tree(places[key])
        examples, note = drawn_examples(tree, settings, seed if provenance.seed is None else provenance.seed)
        yield ReportedTree(tree, examples, provenance.step, note=note)


def drawn_examples(
    tree: ExplorationTree, settings: DistillationSettings, seed: int
) -> tuple[tuple[Example, ...], str | None]:
    """Return the tree's examples, or none and the reason."""
    try:
        return tuple(build_examples(tree, settings, seed)), None
    except ValueError as error:  # one odd tree must not cost the report of ten thousand
        return (), f"No example can be drawn from this tree: {error}"
