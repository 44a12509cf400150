"""A tree as a row of the schema, and back.

What returns equals what was stored, but for snapshots, which are None, and for `History.previous`, which is rebuilt
where a history continues the step before it token for token and is None elsewhere.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from leafe_verl.core import (
    Attempt,
    Branch,
    ExplorationTree,
    History,
    Message,
    Outcome,
    Reflection,
    StepRecord,
    Task,
    Turn,
)
from leafe_verl.trees.schema import PROVENANCE, Provenance
from leafe_verl.trees.text import escape, map_text, unescape

Row = dict[str, Any]
EMPTY = History((), ())


def row_of(tree: ExplorationTree, provenance: Provenance) -> Row:
    """Return the tree as Python values of `SCHEMA`, text escaped.

    Raises ValueError for what the form has no place for: a branch whose reflection is not among the tree's, a message
    with other fields than role and content.
    """
    row = {
        **{name: getattr(provenance, name) for name in PROVENANCE},
        "task_key": tree.task.key,
        "environment": tree.task.environment,
        "instruction": tree.task.instruction,
        # As it is, and escaped below with all other text: JSON's own escapes would make one character of a pair.
        "task_data": json.dumps(dict(tree.task.data), ensure_ascii=False),
        "attempts": [_attempt_row(tree, index) for index in range(len(tree.attempts))],
        "reflections": [_reflection_row(attempt, reflection) for attempt, reflection in tree.reflections],
        **drawn_from(tree),
    }
    escaped: Row = map_text(row, escape)
    return escaped


def tree_of(row: Mapping[str, Any]) -> ExplorationTree:
    """Return the tree of a row. Fields unknown to the schema are passed over.

    Raises ValueError for what is no tree: missing fields, rollback points outside the tree, unknown outcomes.
    """
    row = map_text(dict(row), unescape)
    try:
        task = Task(row["task_key"], row["instruction"], row["environment"], json.loads(row["task_data"]))
        tree = ExplorationTree(task)
        tree.reflections += [(each["attempt"], _reflection(each)) for each in row["reflections"]]
        for attempt in row["attempts"]:
            tree.add(_attempt(tree, attempt))
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"task {row.get('task_key')!r}: no tree ({error!r})") from error
    return tree


def provenance_of(row: Mapping[str, Any]) -> Provenance:
    return Provenance(**{name: map_text(row.get(name), unescape) for name in PROVENANCE})


def drawn_from(tree: ExplorationTree) -> Row:
    """Return the columns that repeat what the tree says."""
    attempts, branches = tree.attempts, tree.branches()
    returns = [tree.best_return(i) for i, attempt in enumerate(attempts) if attempt.outcome.scored and attempt.steps]
    actions = [step.action for attempt in attempts for step in attempt.steps]
    reflection_tokens = sum(reflection.num_tokens for _, reflection in tree.reflections)
    return {
        "num_attempts": len(attempts),
        "num_branches": len(branches),
        "num_improved": sum(tree.improved(index) for index, _ in branches),
        "solved": any(attempt.outcome is Outcome.SUCCESS for attempt in attempts),
        "best_return": max(returns, default=None),
        "sampled_tokens": sum(len(action.token_ids) for action in actions) + reflection_tokens,
        "environment_steps": len(actions),
    }


def continuation(step: StepRecord) -> History:
    """The base of what follows a step: its history, its action and the observation, before any template's tokens."""
    news = ({"role": "assistant", "content": step.action.text}, {"role": "user", "content": step.observation})
    return History(step.history.token_ids + step.action.token_ids, (*step.history.messages, *news))


def _attempt_row(tree: ExplorationTree, index: int) -> Row:
    attempt = tree.attempts[index]
    branch, base = attempt.branch, _first_base(tree, attempt.branch)
    steps: list[Row] = []
    for step in attempt.steps:
        steps.append(_step_row(step, base))
        base = continuation(step)
    return {
        "branch": _branch_row(tree, branch) if branch else None,
        "outcome": attempt.outcome.value,
        "error": attempt.error,
        "replayed_steps": attempt.replayed_steps,
        "steps": steps,
    }


def _attempt(tree: ExplorationTree, row: Row) -> Attempt:
    branch = _branch(tree, row["branch"]) if row["branch"] else None
    base = _first_base(tree, branch)
    steps: list[StepRecord] = []
    for each in row["steps"]:
        steps.append(_step(each, base, steps[-1] if steps else None))
        base = continuation(steps[-1])
    return Attempt(branch, tuple(steps), Outcome(row["outcome"]), row.get("error"), row["replayed_steps"])


def _first_base(tree: ExplorationTree, branch: Branch | None) -> History:
    return tree.path(branch.parent)[branch.step - 1].history if branch else EMPTY


def _branch_row(tree: ExplorationTree, branch: Branch) -> Row:
    reflection = (branch.parent, branch.reflection)
    if reflection not in tree.reflections:
        raise ValueError(f"task {tree.task.key!r}: a branch's reflection is not among those of the attempt it left")
    return {
        "parent": branch.parent,
        "step": branch.step,
        "depth": branch.depth,
        "reflection": tree.reflections.index(reflection),
    }


def _branch(tree: ExplorationTree, row: Row) -> Branch:
    parent, step = row["parent"], row["step"]
    if not (0 <= parent < len(tree.attempts) and 1 <= step <= len(tree.path(parent))):
        raise ValueError(f"task {tree.task.key!r}: no step {step} in attempt {parent}: rollback point outside the tree")
    return Branch(parent, step, row["depth"], tree.reflections[row["reflection"]][1])


def _reflection_row(attempt: int, reflection: Reflection) -> Row:
    return {
        "attempt": attempt,
        "step": reflection.step,
        "experience": reflection.experience,
        "parsed": reflection.parsed,
        "text": reflection.text,
        "num_tokens": reflection.num_tokens,
        "num_steps": reflection.num_steps,
    }


def _reflection(row: Row) -> Reflection:
    return Reflection(row["step"], row["experience"], row["parsed"], row["text"], row["num_tokens"], row["num_steps"])


def _step_row(step: StepRecord, base: History) -> Row:
    action = step.action
    return {
        "history": _history_row(step.history, base),
        "action": {
            "text": action.text,
            "token_ids": list(action.token_ids),
            "log_probs": None if action.log_probs is None else list(action.log_probs),
            "complete": action.complete,
        },
        "observation": step.observation,
        "reward": step.reward,
        "error": step.error,
        "command": step.command,
        "answered": _history_row(step.answered, continuation(step)) if step.answered else None,
    }


def _step(row: Row, base: History, before: StepRecord | None) -> StepRecord:
    history, action = _history(row["history"], base, before), row["action"]
    log_probs = action.get("log_probs")
    turn = Turn(
        action["text"],
        tuple(action["token_ids"]),
        None if log_probs is None else tuple(log_probs),
        action["complete"],
    )
    command = row.get("command")
    step = StepRecord(history, turn, row["observation"], row["reward"], row["error"], snapshot=None, command=command)
    if answered := row.get("answered"):
        return dataclasses.replace(step, answered=_history(answered, continuation(step), step))
    return step


def _history_row(history: History, base: History) -> Row:
    tokens, messages = _shared(history.token_ids, base.token_ids), _shared(history.messages, base.messages)
    return {
        "shared_tokens": tokens,
        "new_token_ids": list(history.token_ids[tokens:]),
        "shared_messages": messages,
        "new_messages": [_message_row(message) for message in history.messages[messages:]],
    }


def _history(row: Row, base: History, before: StepRecord | None) -> History:
    tokens, messages = row["shared_tokens"], row["shared_messages"]
    if not (0 <= tokens <= len(base.token_ids) and 0 <= messages <= len(base.messages)):
        raise ValueError(
            f"a history shares {tokens} tokens and {messages} messages with one of {len(base.token_ids)} and "
            f"{len(base.messages)}"
        )
    news = tuple({"role": each["role"], "content": each["content"]} for each in row["new_messages"])
    history = History(base.token_ids[:tokens] + tuple(row["new_token_ids"]), base.messages[:messages] + news)
    if before is not None:
        continued = tokens == len(base.token_ids)
        return History(history.token_ids, history.messages, (before.history, before.action) if continued else None)
    # A branch begins with the very history that it rolled back to, `previous` included.
    return base if (history.token_ids, history.messages) == (base.token_ids, base.messages) else history


def _message_row(message: Message) -> Row:
    if set(message) != {"role", "content"}:
        raise ValueError(f"a message has the fields {sorted(message)}; expected role and content alone")
    return dict(message)


def _shared(items: Sequence[Any], base: Sequence[Any]) -> int:
    """Length of the longest common beginning."""
    length = min(len(items), len(base))
    if items[:length] == base[:length]:  # the rule, at the speed of a comparison
        return length
    return next(i for i, (one, other) in enumerate(zip(items, base, strict=False)) if one != other)
