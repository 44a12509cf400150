"""Makes rows for SFT trainers from an example: chat messages, or the rendered text of its tokens. See export.py."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from leafe_verl.core import Example, ExplorationTree, Message, StepRecord
from leafe_verl.core.text import without_surrogates
from leafe_verl.trees.rendering import CONTROL_TOKENS, THOUGHTS, RowReader, Trained, spells_control_token
from leafe_verl.trees.schema import Provenance
from leafe_verl.trees.text import map_text

BEFORE_ACTION = "<|im_end|>\n<|im_start|>assistant\n"
AFTER_ACTION = "<|im_end|>\n<|im_start|>user\n"
"""ChatML's text between an observation and an action, and between an action and an observation."""

Row = dict[str, Any]


def sound_rows(
    tree: ExplorationTree,
    example: Example,
    provenance: Provenance,
    form: str,
    reader: RowReader | None = None,
    *,
    verbatim: bool = False,
) -> Iterator[tuple[Row, str | None]]:
    """Yield the rows of one example, each with why it must be left out, a key of rendering.REASONS; None to keep it."""
    origin = _origin(tree, example, provenance)
    if verbatim:
        if reader is None:
            raise ValueError("verbatim rows hold the text of tokens; expected a tokenizer: name it with --tokenizer")
        found = _verbatim_rows(tree, example, form, reader)
    else:
        path = _path(tree, example)
        rows = _message_rows(path, trained_turns(tree, example), form, reader)
        found = [(row, trained_in(path, example, row["turns"])) for row in rows]
    for row, trained in found:
        row = _storable(row | origin)
        if reader:
            yield row, reader.problem(row, trained)
        else:
            yield row, _guess_problem(_path(tree, example), row)


def trained_turns(tree: ExplorationTree, example: Example) -> list[int]:
    """Return the steps whose actions the example's mask trains, counted from 1 along the attempt's path."""
    sequence, turns = example.sequence, []
    for t, step in enumerate(_path(tree, example), start=1):
        place = _place(step)
        inside = sequence.token_ids[: place.stop] == step.history.token_ids + step.action.token_ids
        if inside and any(sequence.mask[place.start : place.stop]):
            turns.append(t)
    return turns


def trained_in(path: Sequence[StepRecord], example: Example, turns: Sequence[int]) -> Trained:
    """Return the tokens of an example up to the last of some turns, with the mask of these turns alone."""
    places = {place for t in turns for place in _place(path[t - 1])}
    return _cut(example, [each and int(place in places) for place, each in enumerate(example.sequence.mask)])


def fold(messages: Sequence[Message]) -> list[Message]:
    """Return a conversation that ends with a user message without its assistant messages.

    All messages after the system prompt become one user message, which a ChatML template renders to the same tokens.
    """
    system = [message for message in messages[:1] if message["role"] == "system"]
    between = {"assistant": BEFORE_ACTION, "user": AFTER_ACTION}
    first, *later = messages[len(system) :]
    text = first["content"] + "".join(between[message["role"]] + message["content"] for message in later)
    return [*system, {"role": "user", "content": text}]


def _message_rows(path: Sequence[StepRecord], turns: Sequence[int], form: str, reader: RowReader | None) -> list[Row]:
    if form == "verl":
        return [_verl_row(path, run, reader) for run in _consecutive(turns)]
    spoken = [(path[t - 1], t) for t in turns]
    return [
        {
            "prompt": [*step.history.messages],
            "completion": [_answer(step, reader)],
            "turns": [t],
            "folded": False,
        }
        for step, t in spoken
    ]


def _verl_row(path: Sequence[StepRecord], run: Sequence[int], reader: RowReader | None) -> Row:
    first, last = path[run[0] - 1], path[run[-1] - 1]
    before = first.history.messages
    folded = any(message["role"] == "assistant" for message in before)
    opening = fold(before) if folded else before
    between = list(last.history.messages[len(before) :])
    for place, t in enumerate(run[:-1]):  # assistant's and user's messages take turns
        between[2 * place] = _answer(path[t - 1], reader)
    return {"messages": [*opening, *between, _answer(last, reader)], "turns": list(run), "folded": folded}


def _verbatim_rows(tree: ExplorationTree, example: Example, form: str, reader: RowReader) -> list[tuple[Row, Trained]]:
    """Return rows of the rendered text, with a message for each part of the tokens that is trained on, or is not."""
    path, turns = _path(tree, example), trained_turns(tree, example)
    token_ids, mask = example.sequence.token_ids, example.sequence.mask
    messages: list[Message] = []
    rows: list[tuple[Row, Trained]] = []
    begin = 0
    for trained, part in itertools.groupby(mask[: _end(mask)]):
        end = begin + len(list(part))
        messages.append({"role": "assistant" if trained else "user", "content": reader.decode(token_ids[begin:end])})
        if trained and form == "trl":
            before = {"role": "user", "content": reader.decode(token_ids[:begin])}
            own = [t for t in turns if begin in _place(path[t - 1])]
            row = {"prompt": [before], "completion": messages[-1:], "turns": own, "folded": False}
            rows.append((row, Trained(token_ids[:end], (0,) * begin + (1,) * (end - begin))))
        begin = end
    if form == "trl":
        return rows
    return [({"messages": messages, "turns": turns, "folded": False}, _cut(example, mask))]


def _guess_problem(path: Sequence[StepRecord], row: Row) -> str | None:
    """Return why a row may be read otherwise than it was sampled, without a tokenizer."""
    steps = [path[t - 1] for t in row["turns"]]
    if any(step.action.num_thoughts for step in path[: row["turns"][-1]]):
        return THOUGHTS
    spoken = [*steps[-1].history.messages, *(_answer(step, None) for step in steps)]
    return CONTROL_TOKENS if spells_control_token(spoken) else None


def _path(tree: ExplorationTree, example: Example) -> tuple[StepRecord, ...]:
    """Return the steps of the example's attempt; for a recovery target, up to the step that has its action instead."""
    path = tree.path(example.attempt)
    if example.source is None:
        return path
    action = tree.path(example.source)[-1].action
    return (*path[: example.step - 1], dataclasses.replace(path[example.step - 1], action=action))


def _place(step: StepRecord) -> range:
    """Return where the tokens of a step's action stand in a sequence that holds them."""
    begin = len(step.history.token_ids)
    return range(begin, begin + len(step.action.token_ids))


def _end(mask: Sequence[int]) -> int:
    """Return the number of tokens up to the last one that is trained on."""
    return max(place for place, trained in enumerate(mask, start=1) if trained)


def _cut(example: Example, mask: Sequence[int]) -> Trained:
    """Return the example's tokens with a mask, up to the last one that this mask trains."""
    end = _end(mask)
    return Trained(example.sequence.token_ids[:end], tuple(mask[:end]))


def _origin(tree: ExplorationTree, example: Example, provenance: Provenance) -> Row:
    return {
        "kind": example.kind.value,
        "run": provenance.run,
        "step": provenance.step,
        "task_key": tree.task.key,
        "attempt": example.attempt,
    }


def _consecutive(turns: Sequence[int]) -> list[list[int]]:
    """Split ascending numbers into runs of consecutive ones."""
    runs: list[list[int]] = []
    for turn in turns:
        if runs and turn == runs[-1][-1] + 1:
            runs[-1].append(turn)
        else:
            runs.append([turn])
    return runs


def _answer(step: StepRecord, reader: RowReader | None) -> Message:
    """Return an action as a message, with its thoughts if they can be read."""
    action = step.action
    thoughts = reader.decode(action.token_ids[: action.num_thoughts]) if reader and action.num_thoughts else ""
    return {"role": "assistant", "content": thoughts + action.text}


def _storable(row: Row) -> Row:
    storable: Row = map_text(row, without_surrogates)
    return storable
