"""Small stores with failed turns, and evaluations that go on from them, written as leafe-verl evaluate writes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from evaluation.stores import MANIFEST, OUTCOMES, task
from fakes import turn
from leafe_verl.core import Attempt, ExplorationTree, History, Outcome, StepRecord
from leafe_verl.core.given import count_after_given
from leafe_verl.core.statistics import count
from leafe_verl.evaluation.histories import FOLDER, DrawnHistory, draw_histories, fingerprint_histories, write_histories
from leafe_verl.evaluation.manifest import write_manifest
from leafe_verl.trees import Provenance, TreeWriter

OPENING = History((), ({"role": "user", "content": "Go."},))
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)


def step(text: str, solved: bool = False) -> StepRecord:
    return StepRecord(
        OPENING, turn(text), "Right." if solved else "Wrong.", float(solved), False, None, failed=not solved
    )


def played(texts: str, outcome: Outcome, given: Sequence[StepRecord] = ()) -> Attempt:
    """An attempt with a turn for each letter, the last of which is right if it succeeded."""
    steps, history = [], given[-1] if given else None
    for place, text in enumerate(texts):
        made = step(text, outcome is Outcome.SUCCESS and place == len(texts) - 1)
        if history:
            news = ({"role": "assistant", "content": history.action.text}, {"role": "user", "content": "Wrong."})
            made = dataclasses.replace(made, history=History((), (*history.history.messages, *news)))
        steps.append(made)
        history = made
    return Attempt(None, tuple(steps), outcome, None if outcome.scored else "it broke", len(given))


def write_source(store: Path, tasks: Mapping[str, Sequence[str]], **provenance: object) -> Path:
    """`tasks`: key -> attempts, such as "ab+": the turns a and b, the last of which succeeded."""
    write_manifest(store, MANIFEST)
    number = 0
    for key, attempts in tasks.items():
        for attempt in attempts:
            tree = ExplorationTree(task(key))
            tree.add(played(attempt[:-1], OUTCOMES[attempt[-1]]))
            number += 1
            at = BEGUN + timedelta(seconds=number)
            known = {"run": "source", "seed": 5, "has_tokens": False, "collected_at": at, **provenance}
            with TreeWriter(store) as writer:
                writer.append(tree, Provenance(**known), count(tree, []))
    return store


def write_given(out: Path, source: Path, attempts: Mapping[str, Sequence[str]], **manifest: object) -> Path:
    """Write an evaluation from all first failures of `source`.

    `attempts`: the failed action -> the attempts that went on from it, written as those of `write_source`.
    """
    drawn = draw_histories(source, 1, 9, 0)
    given = {"from": str(source), "turn": 1, "per_task": 9, "max_tasks": None, "seed": 0}
    given |= {"fingerprint": fingerprint_histories(drawn)}
    write_manifest(out, dataclasses.replace(MANIFEST, **{"given": given, **manifest}))
    write_histories(out, drawn)
    writer = TreeWriter(out)
    for failed, texts in attempts.items():
        history = next(each.history for each in drawn if each.history.steps[0].action.text == failed)
        for text in texts:
            tree = ExplorationTree(history.task, history.steps)
            tree.add(played(text[:-1], OUTCOMES[text[-1]], history.steps))
            provenance = Provenance(run=out.name, seed=history.seed, has_tokens=False)
            writer.append(tree, provenance, count(tree, []) | count_after_given(tree))
    return out


def texts(drawn: Sequence[DrawnHistory]) -> list[str]:
    """Return the actions of each history, joined."""
    return ["".join(each.action.text for each in one.history.steps) for one in drawn]


def histories_of(out: Path) -> Path:
    return out / FOLDER
