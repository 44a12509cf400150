"""Draws failed histories from a store of trees, and keeps them in the folder of the evaluation that goes on from them.

The folder `histories` of such an evaluation is a tree store. Each of its trees has given steps and no attempt, its
provenance is that of the tree that the steps come from, and its counts are those of `FirstTurns`. So the evaluation can
go on after its source has grown, moved or gone.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from leafe_verl.checkpoints import tree_store
from leafe_verl.core import ExplorationTree, Outcome
from leafe_verl.core.given import GivenHistory, choose_histories, failed_beginnings
from leafe_verl.evaluation.manifest import FILE, hash_lines
from leafe_verl.trees import Provenance, TreeWriter, index, read_tree
from leafe_verl.trees.reader import arrow_files, batch_reader, read_counted_trees

_Policy = tuple[str, str | None, int | None]
"""Task, run and training step of the trees that one policy made."""
FOLDER = "histories"
"""Name of the folder in that of the evaluation."""
KEPT_BATCHES = 64
"""Record batches of the source that are kept in memory, of some 100 KB each: attempts of a task are spread."""


@dataclass(frozen=True)
class FirstTurns:
    """How many other first turns the policy that made a store played on a task, and how many of them solved it."""

    number: int
    """Without the turn that begins the history."""
    solved: int
    failures: int
    """Attempts of the task that failed as the history did. The task weighs as many in every figure: then `share` is an
    unbiased estimate, whereas with equal weights the tasks that failed by chance would raise it."""

    @property
    def share(self) -> float | None:
        """Estimate of what a fresh first turn would have solved; None if there is no other first turn."""
        return self.solved / self.number if self.number else None


@dataclass(frozen=True)
class DrawnHistory:
    """A history that an evaluation goes on from, and where it comes from."""

    history: GivenHistory
    provenance: Provenance
    """That of the tree which the steps are from."""
    fresh: FirstTurns


def find_store(folder: Path, option: str = "") -> Path:
    """Return the tree store of an evaluation or a RUN_DIR, or the folder itself.

    Raises ValueError if there is none, which says after which `option` of the command the folder came.
    """
    if not (folder / FILE).is_file() and (store := tree_store(folder / "checkpoints")).is_dir():
        folder = store
    if not arrow_files(folder):
        raise ValueError(
            f"{option} {folder}".lstrip() + ": no store; expected the --out of leafe-verl evaluate, a RUN_DIR, or a "
            "folder with trees-*.arrow"
        )
    return folder


def draw_histories(store: Path, turn: int, per_task: int, seed: int) -> list[DrawnHistory]:
    """Return at most `per_task` failed histories of each task in a store, sorted by task and key.

    Raises ValueError if the store holds none, and for a tree that does not say with which seed it was played.
    """
    found: dict[str, dict[str, DrawnHistory]] = defaultdict(dict)
    first_turns: dict[_Policy, Counter[str]] = defaultdict(Counter)
    failures: Counter[str] = Counter()
    for tree, provenance in _read_source(store):
        first_turns[_policy(tree, provenance)].update(_count_first_turns(tree))
        for steps in failed_beginnings(tree, turn):
            failures[tree.task.key] += 1
            history = GivenHistory(tree.task, steps, _seed(store, tree, provenance))
            drawn = DrawnHistory(history, provenance, FirstTurns(0, 0, 0))
            found[tree.task.key].setdefault(history.key, drawn)
    if not found:
        raise ValueError(_nothing_found(store, turn, len({key for key, *_ in first_turns})))
    return [
        dataclasses.replace(
            drawn, fresh=_without_one(first_turns[_policy(drawn.history, drawn.provenance)], failures[key])
        )
        for key, of_task in sorted(found.items())
        for history in choose_histories([each.history for each in of_task.values()], per_task, seed)
        for drawn in [of_task[history.key]]
    ]


def fingerprint_histories(histories: Iterable[DrawnHistory]) -> str:
    """Return the number of histories and a hash of their content and order."""
    return hash_lines([f"{each.history.key} {each.history.seed}" for each in histories])


def write_histories(out: Path, histories: Iterable[DrawnHistory]) -> None:
    """Replace the histories in the folder of an evaluation. A killed process leaves the old ones, or none."""
    partial = out / f"{FOLDER}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    writers: dict[bool, TreeWriter] = {}
    for drawn in histories:
        tokens = drawn.provenance.has_tokens
        tree = ExplorationTree(drawn.history.task, drawn.history.steps)
        fresh = drawn.fresh
        counts = {"first_turns": fresh.number, "first_turns_solved": fresh.solved, "failures": fresh.failures}
        writers.setdefault(tokens, TreeWriter(partial)).append(tree, drawn.provenance, counts)
    for writer in writers.values():
        writer.close()
    shutil.rmtree(out / FOLDER, ignore_errors=True)
    partial.rename(out / FOLDER)


def read_histories(folder: Path) -> list[DrawnHistory]:
    """Read what `write_histories` wrote into `folder`, sorted by task and key."""
    found = [
        DrawnHistory(GivenHistory(tree.task, tree.given, provenance.seed or 0), provenance, _from_counts(counts))
        for tree, provenance, counts in read_counted_trees(folder)
    ]
    return sorted(found, key=lambda drawn: (drawn.history.task.key, drawn.history.key))


def _read_source(store: Path) -> Iterator[tuple[ExplorationTree, Provenance]]:
    """Read the trees of a store in an order that does not depend on the names of its files."""
    read = batch_reader(KEPT_BATCHES)
    places = index(store)
    for key in sorted(places, key=lambda key: (key.task_key, key.run or "", key.step or 0, str(key.collected_at))):
        yield read_tree(places[key], read)


def _seed(store: Path, tree: ExplorationTree, provenance: Provenance) -> int:
    if provenance.seed is None:
        raise ValueError(
            f"--from {store}: the tree of task {tree.task.key!r} does not say which seed its environment had, "
            "so that its turns cannot be replayed; expected trees of a run or an evaluation"
        )
    return provenance.seed


def _count_first_turns(tree: ExplorationTree) -> dict[str, int]:
    """Count the first turns of the roots, and those that solved the task."""
    roots = [each for each in tree.attempts if each.branch is None and each.steps and not tree.given]
    solved = [each for each in roots if len(each.steps) == 1 and each.outcome is Outcome.SUCCESS]
    return {"number": len(roots), "solved": len(solved)}


def _policy(source: ExplorationTree | GivenHistory, provenance: Provenance) -> _Policy:
    """Return what the first turns of one policy share. A run's policy changes with every training step."""
    return source.task.key, provenance.run, provenance.step


def _without_one(first_turns: Mapping[str, int], failures: int) -> FirstTurns:
    """Leave out the first turn of the history itself, which did not solve the task."""
    return FirstTurns(first_turns["number"] - 1, first_turns["solved"], failures)


def _from_counts(counts: Mapping[str, int]) -> FirstTurns:
    number, solved = counts["first_turns"], counts["first_turns_solved"]
    return FirstTurns(number, solved, counts.get("failures", number + 1 - solved))  # earlier versions lack the last


def _nothing_found(store: Path, turn: int, tasks: int) -> str:
    return (
        f"--from {store}: no attempt without experience has failed at turn {turn} and could go on, in the trees of "
        f"{tasks} tasks; expected a turn that the environment marks as failed: choose another --turn or another store"
    )
