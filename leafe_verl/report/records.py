"""Turns a tree into the record that the page shows, and into its row in the list of tasks.

A record, as JSON:

    key, environment, instruction, step, hasTokens, hasPrompts, note     fields of ReportedTree and its task
    given         number of given steps that every root goes on from; 0 if the roots begin at the task's start
    attempts      in breadth-first order, each:
        parent, from, depth     fields of its branch; null, 1 and 0 for a root. `from` is tau, counted from 1
        reflection              index in `reflections`, null for a root
        outcome, error, replayed
        best, improved          highest return after any of its own steps, and whether that exceeds its parent's
        steps                   the steps that it executed itself, those of a root after the given steps, each:
            shared, messages        its history: the first `shared` messages of its base, then `messages`. The base of
                                    a root's first step is empty; of a branch's first step, the history of the step
                                    rolled back to; otherwise the previous history with its action and feedback
            action, complete, feedback, reward, error
            return                  sum of the rewards so far
            tokens, logProbs        tokens of the action; only present if an example trains on them
            feedbackTokens          tokens of the feedback and its chat template; present under the same condition
    reflections   as in trees/rows.py: {attempt, step, experience, parsed, text, num_tokens, num_steps}
    examples      {kind, attempt, tokens, parts}; `tokens` is how many are trained on; `parts` are triples: the attempt
                  that executed a step, the step, and 0 for its action, 1 for its feedback
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from leafe_verl.core import Attempt, Example, ExplorationTree, Message, Outcome, StepRecord
from leafe_verl.core.shared_prefix import shared_prefix_length
from leafe_verl.report.sources import ReportedTree
from leafe_verl.trees.rows import reflection_to_row

ACTION, FEEDBACK = 0, 1
Part = tuple[int, int, int]
"""Attempt that executed the step, the step from 1, ACTION or FEEDBACK."""

EXCERPT = 160
"""Maximum number of characters of a key or an instruction in the list."""

COLUMNS = (
    "run",  # index of the run
    "key",  # its beginning
    "environment",
    "instruction",  # its beginning
    "step",
    "attempts",
    "branches",
    "improved",  # of the branches
    "reflections",
    "parsed",  # of the reflections
    "examples",
    "best",  # highest return of a scored attempt after any step, null without one
    "result",  # index in RESULTS
    "chunk",
    "place",  # in its chunk
)
RESULTS = ("first try", "after rollback", "unsolved", "unscored")


def build_row(reported: ReportedTree, run: int, chunk: int, place: int) -> list[Any]:
    """Return the tree's value for each of COLUMNS."""
    tree, task = reported.tree, reported.tree.task
    branches = tree.branches()
    returns = [tree.best_return(i) for i, attempt in enumerate(tree.attempts) if attempt.outcome.scored]
    return [
        run,
        task.key[:EXCERPT],
        task.environment,
        task.instruction[:EXCERPT],
        reported.step,
        len(tree.attempts),
        len(branches),
        sum(tree.improved(index) for index, _ in branches),
        len(tree.reflections),
        sum(reflection.parsed for _, reflection in tree.reflections),
        len(reported.examples),
        _finite(max(returns, default=None)),
        RESULTS.index(classify_result(tree)),
        chunk,
        place,
    ]


def classify_result(tree: ExplorationTree) -> str:
    """Return which of RESULTS holds: whether the task was solved, and whether that took a rollback."""
    solved = [attempt for attempt in tree.attempts if attempt.outcome is Outcome.SUCCESS]
    if solved:
        return "first try" if any(attempt.branch is None for attempt in solved) else "after rollback"
    return "unsolved" if any(attempt.outcome.scored for attempt in tree.attempts) else "unscored"


def build_record(reported: ReportedTree) -> tuple[dict[str, Any], set[int]]:
    """Return the tree's record, and all token ids that it contains."""
    tree, task = reported.tree, reported.tree.task
    trained = trained_tokens(tree, reported.examples)
    record = {
        "key": task.key,
        "environment": task.environment,
        "instruction": task.instruction,
        "step": reported.step,
        "hasTokens": reported.has_tokens,
        "hasPrompts": reported.has_prompts,
        "note": reported.note,
        "given": len(tree.given),
        "attempts": [_attempt(tree, index, trained) for index in range(len(tree.attempts))],
        "reflections": [reflection_to_row(index, reflection) for index, reflection in tree.reflections],
        "examples": [_example(tree, example) for example in reported.examples],
    }
    return record, {token for token_ids in trained.values() for token in token_ids}


def trained_tokens(tree: ExplorationTree, examples: Sequence[Example]) -> dict[Part, tuple[int, ...]]:
    """Return the token ids that the examples train on, by part of a step."""
    return {part: token_ids for example in examples for part, token_ids in _parts(tree, example)}


def _parts(tree: ExplorationTree, example: Example) -> Iterator[tuple[Part, tuple[int, ...]]]:
    """Yield the spans of trained tokens of one example. Each span is an action, or what lies between two actions."""
    mask, token_ids = example.sequence.mask, example.sequence.token_ids
    if example.source is not None:
        last = len(tree.path(example.source))
        yield (example.source, last, ACTION), tuple(itertools.compress(token_ids, mask))
        return
    for t, step in enumerate(tree.path(example.attempt), start=1):
        begin = len(step.history.token_ids)
        end = begin + len(step.action.token_ids)
        owner = find_owner(tree, example.attempt, t)
        if any(mask[begin:end]):
            yield (owner, t, ACTION), token_ids[begin:end]
        if end < len(mask) and mask[end]:
            length = len(list(itertools.takewhile(bool, mask[end:])))
            # After a rollback point, the branch's own action follows its parent's feedback.
            yield (owner, t, FEEDBACK), token_ids[end : end + length]


def find_owner(tree: ExplorationTree, index: int, step: int) -> int:
    """Return the attempt that executed a step of an attempt's path."""
    branch = tree.attempts[index].branch
    return find_owner(tree, branch.parent, step) if branch and step < branch.step else index


def _attempt(tree: ExplorationTree, index: int, trained: dict[Part, tuple[int, ...]]) -> dict[str, Any]:
    attempt, branch = tree.attempts[index], tree.attempts[index].branch
    return {
        "parent": branch.parent if branch else None,
        "from": branch.step if branch else 1,
        "depth": attempt.depth,
        "reflection": _reflection_index(tree, attempt),
        "outcome": attempt.outcome.value,
        "error": attempt.error,
        "replayed": attempt.replayed_steps,
        "best": _finite(tree.best_return(index)),
        "improved": tree.improved(index),
        "steps": list(_steps(tree, index, trained)),
    }


def _reflection_index(tree: ExplorationTree, attempt: Attempt) -> int | None:
    if attempt.branch is None:
        return None
    wanted = (attempt.branch.parent, attempt.branch.reflection)
    return tree.reflections.index(wanted) if wanted in tree.reflections else None


def _steps(tree: ExplorationTree, index: int, trained: dict[Part, tuple[int, ...]]) -> Iterator[dict[str, Any]]:
    branch = tree.attempts[index].branch
    first = branch.step if branch else 1
    base: tuple[Message, ...] = tree.path(branch.parent)[branch.step - 1].history.messages if branch else ()
    path = tree.path(index)
    returns = list(itertools.accumulate(step.reward for step in path))
    for t, step in enumerate(path[first - 1 :], start=first):
        messages = step.history.messages
        shared = shared_prefix_length(messages, base)
        record = {
            "shared": shared,
            "messages": [[message.get("role", ""), message.get("content", "")] for message in messages[shared:]],
            "action": step.action.text,
            "complete": step.action.complete,
            "feedback": step.observation,
            "reward": _finite(step.reward),
            "error": step.error,
            "return": _finite(returns[t - 1]),
        }
        yield record | _tokens(step, trained.get((index, t, ACTION)), trained.get((index, t, FEEDBACK)))
        base = (*messages, {"role": "assistant", "content": step.action.text})
        base = (*base, {"role": "user", "content": step.observation})


def _tokens(step: StepRecord, action: Sequence[int] | None, feedback: Sequence[int] | None) -> dict[str, Any]:
    """Return only the tokens that are trained on: all tokens together would be most of the file."""
    found: dict[str, Any] = {}
    if action:
        found["tokens"] = list(action)
        if step.action.log_probs:
            found["logProbs"] = [_finite(log_prob, 3) for log_prob in step.action.log_probs]
    if feedback:
        found["feedbackTokens"] = list(feedback)
    return found


def _example(tree: ExplorationTree, example: Example) -> dict[str, Any]:
    return {
        "kind": "rejected" if example.rejected else example.kind.value,
        "attempt": example.attempt,
        "tokens": sum(example.sequence.mask),
        "parts": [part for part, _ in _parts(tree, example)],
    }


def _finite(value: float | None, digits: int = 6) -> float | None:
    """Return the rounded number, or None if it is not finite: rewards may be infinite, which JSON cannot express."""
    return None if value is None or not math.isfinite(value) else round(value, digits)
