"""Prints a store: a table of its trees, or one tree as indented text."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from leafe_verl.core import ExplorationTree, Reflection, StepRecord
from leafe_verl.core.given import history_key
from leafe_verl.trees.conditions import Condition, all_hold, columns_of
from leafe_verl.trees.reader import (
    ROWS_AT_ONCE,
    Folder,
    Location,
    TreeKey,
    batch_reader,
    index,
    join_trees,
    read_chosen,
    read_tree,
    require_files,
)
from leafe_verl.trees.schema import SCHEMA, Provenance
from leafe_verl.trees.text import escape, map_text, one_line, unescape

COLUMNS = {
    "step": "step",
    "task": "task_key",
    "attempts": "num_attempts",
    "branches": "num_branches",
    "improved": "num_improved",
    "solved": "solved",
    "best return": "best_return",
}
"""Heading of the table -> column of `SUMMARY`."""
ORDER = {"run": "", "step": -1, "task_key": ""}
"""Columns by which the table is sorted -> the value that a missing one counts as."""
WIDTH = 100
"""Maximum number of characters of a text that `show` prints."""


def list_trees(store: Folder, conditions: Sequence[Condition] = ()) -> Iterator[str]:
    """Yield the lines of a table of the trees for which all conditions hold, ordered by run, step and task.

    Only their places and the columns of the table are kept in memory: less than a kilobyte for each tree.
    """
    require_files(store)
    chosen = _read_columns(store, conditions)
    # Most stores hold one run, whose name would only widen the table.
    columns = {"run": "run", **COLUMNS} if len(chosen["run"].unique()) > 1 else COLUMNS
    keys = pa.table([pc.fill_null(chosen[name], first) for name, first in ORDER.items()], [*ORDER])
    order = pc.sort_indices(keys, [(name, "ascending") for name in ORDER])
    widths = [len(heading) for heading in columns]
    for cells in _cells(chosen, columns.values()):
        widths = [max(width, len(cell)) for width, cell in zip(widths, cells, strict=True)]
    for cells in itertools.chain([[*columns]], _cells(chosen.take(order), columns.values())):
        yield "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
    yield f"{len(chosen)} trees, {pc.sum(chosen['solved']).as_py() or 0} solved"


def _read_columns(store: Folder, conditions: Sequence[Condition]) -> pa.Table:
    """Return the columns of the list, of the trees for which all conditions hold."""
    names = ("run", *COLUMNS.values())
    schema = pa.schema([SCHEMA.field(name) for name in names])
    rows = (row for _, row in read_chosen(store, columns_of(conditions, names)) if all_hold(conditions, row))
    parts = [schema.empty_table()]
    while group := list(itertools.islice(rows, ROWS_AT_ONCE)):
        parts.append(pa.Table.from_pylist(map_text(group, escape), schema))
    return pa.concat_tables(parts)


def _cells(table: pa.Table, names: Iterable[str]) -> Iterator[list[str]]:
    """Yield the cells of each row, without holding those of many at a time."""
    for batch in table.select(list(names)).to_batches(ROWS_AT_ONCE):
        for row in batch.to_pylist():
            yield [_cell(map_text(value, unescape)) for value in row.values()]


def show_tree(store: Folder, task_key: str, step: int | None = None, run: str | None = None) -> str:
    """Return the tree of a task as text, with each branch below the reflection that it grew from.

    All attempts of a task in an evaluation are shown as one tree, or as one for each history that they go on from.
    Raises ValueError unless there are trees of exactly one run and training step that have the task's key and, where
    given, the step and the run.
    """
    require_files(store)
    found = _find(store, task_key, step, run)
    read = batch_reader()
    trees, provenances = zip(*(read_tree(place, read) for place in found.values()), strict=True)
    groups: dict[str | None, list[ExplorationTree]] = {}
    for key, tree in zip(found, trees, strict=True):
        groups.setdefault(key.history_key, []).append(tree)
    lines = [line for group in groups.values() for line in _tree(join_trees(group))]
    return "\n".join([*_heading(trees[-1], provenances[-1]), *lines])


def _find(store: Folder, task_key: str, step: int | None, run: str | None) -> dict[TreeKey, Location]:
    found = {
        key: location
        for key, location in index(store).items()
        if key.task_key == task_key and step in (None, key.step) and run in (None, key.run)
    }
    if not found:
        raise ValueError(f"{store}: no tree of task {task_key!r}; `leafe-verl trees list {store}` names them")
    if len({(key.run, key.step) for key in found}) > 1:
        raise ValueError(
            f"{store}: {len(found)} trees of task {task_key!r}: {_names(found)}; choose by --step and --run"
        )
    return found


def _names(keys: Iterable[TreeKey]) -> str:
    return ", ".join(sorted({f"run {key.run or '-'} step {_cell(key.step)}" for key in keys}))


def _heading(tree: ExplorationTree, provenance: Provenance) -> Iterator[str]:
    yield f"task {tree.task.key} ({tree.task.environment}): {_line(tree.task.instruction)}"
    versions = f"{_cell(provenance.weight_version_min)} to {_cell(provenance.weight_version_max)}"
    where = f"run {_cell(provenance.run)}, step {_cell(provenance.step)}, seed {_cell(provenance.seed)}"
    yield f"{where}, model {_cell(provenance.model)}, weights of steps {versions}, {provenance.collected_at}"


def _tree(tree: ExplorationTree) -> Iterator[str]:
    if tree.given:
        yield f"given history {history_key(tree.task, tree.given)}, from which every root goes on:"
    for t, step in enumerate(tree.given, 1):
        yield from _step(t, step, "  ")
    for number, attempt in enumerate(tree.attempts):
        if attempt.branch is None:
            yield from _attempt(tree, number, "")
    for recovery in tree.recovery_targets or ():
        where = f"after step {recovery.step - 1} of attempt {recovery.attempt}"
        yield f"recovery target, the last action of attempt {recovery.source} {where}: {recovery.outcome.value}"


def _attempt(tree: ExplorationTree, number: int, indent: str) -> Iterator[str]:
    attempt = tree.attempts[number]
    improved = ", improved" if tree.improved(number) else ""
    first = attempt.branch.step if attempt.branch else len(tree.given) + 1
    origin = f"rolled back to step {first}" if attempt.branch else "root"
    yield f"{indent}attempt {number}, {origin}: {attempt.outcome.value}, return {tree.total_return(number):g}{improved}"
    for t, step in enumerate(attempt.steps, first):
        yield from _step(t, step, indent + "  ")
    if attempt.error is not None:
        yield f"{indent}  broke: {_line(attempt.error)}"
    shown: list[Reflection] = []
    for looked_at, reflection in tree.reflections:
        if looked_at == number and reflection not in shown:  # equal reflections share their branches
            shown.append(reflection)
            yield from _reflection(tree, number, reflection, indent + "  ")


def _step(t: int, step: StepRecord, indent: str) -> Iterator[str]:
    cut = "" if step.action.complete else " [cut by the token limit]"
    yield f"{indent}{t:>2}  {_line(step.action.text)}{cut}"
    yield f"{indent}    {'error' if step.error else 'feedback'}, reward {step.reward:g}: {_line(step.observation)}"


def _reflection(tree: ExplorationTree, number: int, reflection: Reflection, indent: str) -> Iterator[str]:
    whose = "" if reflection.parsed else " (fallback)"
    yield f"{indent}reflection after {reflection.num_steps} steps{whose}: tau {reflection.step}"
    yield f"{indent}    {_line(reflection.experience)}"
    for child, branch in tree.branches():
        if branch.parent == number and branch.reflection == reflection:
            yield from _attempt(tree, child, indent + "    ")


def _line(text: str) -> str:
    return one_line(text, WIDTH)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else _line(str(value))
