"""Converts a tree to a row of the schema and back.

A tree that is read equals the tree that was stored, with these exceptions: snapshots are None; `History.previous` is
rebuilt where a history continues the previous step's token for token, or but for the thoughts of its action, and is
None elsewhere; a tree stored without tokens has empty token ids, and its histories continue one another where their
messages do.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from leafe_verl.core import (
    Attempt,
    Branch,
    ExplorationTree,
    History,
    Message,
    Outcome,
    RecoveryTarget,
    Reflection,
    StepRecord,
    Task,
    Turn,
)
from leafe_verl.core.given import history_key
from leafe_verl.core.recovery_figures import plain_attempts
from leafe_verl.core.shared_prefix import shared_prefix_length
from leafe_verl.trees.schema import PROVENANCE, Provenance
from leafe_verl.trees.text import escape, map_text, unescape

Row = dict[str, Any]
EMPTY = History((), ())


def to_row(tree: ExplorationTree, provenance: Provenance, counts: Mapping[str, int] | None = None) -> Row:
    """Return the tree as Python values with escaped text. The row holds the columns of both layouts of the schema.

    Raises ValueError for what the schema cannot hold: a branch whose reflection is not among the tree's, or a message
    with fields other than role and content.
    """
    targets = tree.recovery_targets
    row = {
        **{name: getattr(provenance, name) for name in PROVENANCE},
        "task_key": tree.task.key,
        "environment": tree.task.environment,
        "instruction": tree.task.instruction,
        # Not as ASCII: JSON's own escapes would turn a surrogate pair into one character.
        "task_data": json.dumps(dict(tree.task.data), ensure_ascii=False),
        "given": _steps_to_rows(tree.given, EMPTY),
        "attempts": [_attempt_to_row(tree, index) for index in range(len(tree.attempts))],
        "reflections": [reflection_to_row(attempt, reflection) for attempt, reflection in tree.reflections],
        "recoveries": None if targets is None else [_recovery_to_row(each) for each in targets],
        **summarize(tree),
        "counts": None if counts is None else json.dumps(counts),
        "plain_attempts": None if counts is None else [each.as_mapping() for each in plain_attempts(tree)],
    }
    escaped: Row = map_text(row, escape)
    return escaped


def from_row(row: Mapping[str, Any]) -> ExplorationTree:
    """Return the tree of a row. Unknown fields are ignored.

    Raises ValueError if the row is not a tree: missing fields, rollback points or recovery targets outside the tree,
    unknown outcomes.
    """
    row = map_text(dict(row), unescape)
    try:
        task = Task(row["task_key"], row["instruction"], row["environment"], json.loads(row["task_data"]))
        tree = ExplorationTree(task, _steps_from_rows(row.get("given") or (), EMPTY))
        tree.reflections += [(each["attempt"], _reflection_from_row(each)) for each in row["reflections"]]
        for attempt in row["attempts"]:
            tree.add(_attempt_from_row(tree, attempt))
        if (recoveries := row.get("recoveries")) is not None:
            tree.recovery_targets = [_recovery_from_row(tree, each) for each in recoveries]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"task {row.get('task_key')!r}: no tree ({error!r})") from error
    return tree


def provenance_from_row(row: Mapping[str, Any]) -> Provenance:
    """Return where the tree of a row comes from."""
    values = {name: map_text(row.get(name), unescape) for name in PROVENANCE}
    return Provenance(**values | {"has_tokens": values["has_tokens"] is not False})


def summarize(tree: ExplorationTree) -> Row:
    """Return the columns that are computed from the tree."""
    attempts, branches = tree.attempts, tree.branches()
    returns = [tree.best_return(i) for i, attempt in enumerate(attempts) if attempt.outcome.scored and attempt.steps]
    actions = [step.action for attempt in attempts for step in attempt.steps]
    reflection_tokens = sum(reflection.num_tokens for _, reflection in tree.reflections)
    return {
        "num_attempts": len(attempts),
        "num_branches": len(branches),
        "num_improved": sum(tree.improved(index) for index, _ in branches),
        "num_scored": sum(attempt.outcome.scored for attempt in attempts),
        "num_solved": sum(attempt.outcome is Outcome.SUCCESS for attempt in attempts),
        "solved": any(attempt.outcome is Outcome.SUCCESS for attempt in attempts),
        "best_return": max(returns, default=None),
        "sampled_tokens": sum(action.num_sampled for action in actions) + reflection_tokens,
        "environment_steps": tree.environment_steps,
        "history_key": history_key(tree.task, tree.given) if tree.given else None,
    }


def continuation(step: StepRecord) -> History:
    """Return the base of what follows a step: its history, action and observation, without the template's tokens."""
    news = ({"role": "assistant", "content": step.action.text}, {"role": "user", "content": step.observation})
    return History(step.history.token_ids + step.action.token_ids, (*step.history.messages, *news))


def reflection_to_row(attempt: int, reflection: Reflection) -> Row:
    """Return a reflection and the index of the attempt that it looked at as plain values."""
    return {
        "attempt": attempt,
        "step": reflection.step,
        "experience": reflection.experience,
        "parsed": reflection.parsed,
        "text": reflection.text,
        "num_tokens": reflection.num_tokens,
        "num_steps": reflection.num_steps,
    }


def _reflection_from_row(row: Row) -> Reflection:
    return Reflection(row["step"], row["experience"], row["parsed"], row["text"], row["num_tokens"], row["num_steps"])


def _recovery_to_row(recovery: RecoveryTarget) -> Row:
    return {**dataclasses.asdict(recovery), "outcome": recovery.outcome.value}


def _recovery_from_row(tree: ExplorationTree, row: Row) -> RecoveryTarget:
    attempt, step, source = row["attempt"], row["step"], row["source"]
    if not (0 <= attempt < len(tree.attempts) and 2 <= step <= len(tree.path(attempt))):
        raise ValueError(f"task {tree.task.key!r}: attempt {attempt} has no step {step} after a failed turn")
    if not (0 <= source < len(tree.attempts) and tree.attempts[source].outcome is Outcome.SUCCESS):
        raise ValueError(f"task {tree.task.key!r}: a recovery target is of attempt {source}, no successful one")
    return RecoveryTarget(attempt, step, source, Outcome(row["outcome"]), row["replayed_steps"])


def _attempt_to_row(tree: ExplorationTree, index: int) -> Row:
    attempt = tree.attempts[index]
    branch = attempt.branch
    return {
        "branch": _branch_to_row(tree, branch) if branch else None,
        "outcome": attempt.outcome.value,
        "error": attempt.error,
        "replayed_steps": attempt.replayed_steps,
        "unplayed_steps": attempt.unplayed_steps,
        "steps": _steps_to_rows(attempt.steps, _first_base(tree, branch)),
    }


def _steps_to_rows(steps: Iterable[StepRecord], base: History) -> list[Row]:
    rows: list[Row] = []
    for step in steps:
        rows.append(_step_to_row(step, base))
        base = continuation(step)
    return rows


def _steps_from_rows(rows: Iterable[Row], base: History, before: StepRecord | None = None) -> tuple[StepRecord, ...]:
    """`before` is the step that the first one continues; None if it begins a root or a branch."""
    steps: list[StepRecord] = []
    for each in rows:
        steps.append(_step_from_row(each, base, steps[-1] if steps else before))
        base = continuation(steps[-1])
    return tuple(steps)


def _attempt_from_row(tree: ExplorationTree, row: Row) -> Attempt:
    branch = _branch_from_row(tree, row["branch"]) if row["branch"] else None
    before = tree.given[-1] if tree.given and branch is None else None
    steps = _steps_from_rows(row["steps"], _first_base(tree, branch), before)
    return Attempt(
        branch=branch,
        steps=steps,
        outcome=Outcome(row["outcome"]),
        error=row.get("error"),
        replayed_steps=row["replayed_steps"],
        unplayed_steps=row.get("unplayed_steps") or 0,
    )


def _first_base(tree: ExplorationTree, branch: Branch | None) -> History:
    if branch:
        return tree.path(branch.parent)[branch.step - 1].history
    return continuation(tree.given[-1]) if tree.given else EMPTY


def _branch_to_row(tree: ExplorationTree, branch: Branch) -> Row:
    reflection = (branch.parent, branch.reflection)
    if reflection not in tree.reflections:
        raise ValueError(f"task {tree.task.key!r}: a branch's reflection is not among those of the attempt it left")
    return {
        "parent": branch.parent,
        "step": branch.step,
        "depth": branch.depth,
        "reflection": tree.reflections.index(reflection),
    }


def _branch_from_row(tree: ExplorationTree, row: Row) -> Branch:
    parent, step = row["parent"], row["step"]
    if not (0 <= parent < len(tree.attempts) and 1 <= step <= len(tree.path(parent))):
        raise ValueError(f"task {tree.task.key!r}: no step {step} in attempt {parent}: rollback point outside the tree")
    return Branch(parent, step, row["depth"], tree.reflections[row["reflection"]][1])


def _step_to_row(step: StepRecord, base: History) -> Row:
    action = step.action
    return {
        "history": _history_to_row(step.history, base),
        "action": {
            "text": action.text,
            "token_ids": list(action.token_ids),
            "log_probs": None if action.log_probs is None else list(action.log_probs),
            "num_tokens": action.num_sampled,
            "num_added": action.num_added,
            "num_thoughts": action.num_thoughts,
            "num_closing": action.num_closing,
            "complete": action.complete,
        },
        "observation": step.observation,
        "reward": step.reward,
        "error": step.error,
        "failed": step.failed,
        "timed_out": step.timed_out,
        "command": step.command,
        "answered": _history_to_row(step.answered, continuation(step)) if step.answered else None,
    }


def _step_from_row(row: Row, base: History, before: StepRecord | None) -> StepRecord:
    history, action = _history_from_row(row["history"], base, before), row["action"]
    log_probs = action.get("log_probs")
    token_ids = action.get("token_ids", ()) if "num_tokens" in action else action["token_ids"]
    turn = Turn(
        action["text"],
        tuple(token_ids),
        None if log_probs is None else tuple(log_probs),
        complete=action["complete"],
        num_added=action.get("num_added") or 0,
        num_thoughts=action.get("num_thoughts") or 0,
        num_closing=action.get("num_closing") or 0,
    )
    error, failed, command = row["error"], row.get("failed"), row.get("command")
    if failed is None and error:  # a store of an earlier version, which has no verdicts
        failed = True
    step = StepRecord(
        history=history,
        action=turn,
        observation=row["observation"],
        reward=row["reward"],
        error=error,
        snapshot=None,
        command=command,
        failed=failed,
        timed_out=bool(row.get("timed_out")),
    )
    if answered := row.get("answered"):
        return dataclasses.replace(step, answered=_history_from_row(answered, continuation(step), step))
    return step


def _history_to_row(history: History, base: History) -> Row:
    tokens = shared_prefix_length(history.token_ids, base.token_ids)
    messages = shared_prefix_length(history.messages, base.messages)
    return {
        "shared_tokens": tokens,
        "new_token_ids": list(history.token_ids[tokens:]),
        "shared_messages": messages,
        "new_messages": [_message_to_row(message) for message in history.messages[messages:]],
    }


def _history_from_row(row: Row, base: History, before: StepRecord | None) -> History:
    tokens, messages = row.get("shared_tokens", 0), row["shared_messages"]
    if not (0 <= tokens <= len(base.token_ids) and 0 <= messages <= len(base.messages)):
        raise ValueError(
            f"a history shares {tokens} tokens and {messages} messages with one of {len(base.token_ids)} and "
            f"{len(base.messages)}"
        )
    news = tuple({"role": each["role"], "content": each["content"]} for each in row["new_messages"])
    history = History(base.token_ids[:tokens] + tuple(row.get("new_token_ids", ())), base.messages[:messages] + news)
    if before is not None:
        # What follows a call of a tool has the role `tool`, which the base does not know.
        observed = history.messages[len(base.messages) - 1 : len(base.messages)]
        answered = messages == len(base.messages) or [each["role"] for each in observed] == ["tool"]
        dropped = before.action.num_thoughts and answered and messages >= len(base.messages) - 1
        whole = tokens == len(base.token_ids) if "shared_tokens" in row else messages == len(base.messages)
        continued = whole or dropped  # the tokens of a history without earlier thoughts do not go on
        return History(history.token_ids, history.messages, (before.history, before.action) if continued else None)
    # A branch begins with the same history object that it rolled back to, including `previous`.
    return base if (history.token_ids, history.messages) == (base.token_ids, base.messages) else history


def _message_to_row(message: Message) -> Row:
    if set(message) != {"role", "content"}:
        raise ValueError(f"a message has the fields {sorted(message)}; expected role and content only")
    return dict(message)
