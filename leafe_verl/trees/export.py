"""Exports SFT examples as chat messages, for the SFT trainers of TRL and of verl.

`core.build_examples` decides which turns are trained, here as in training, and the turns are read from its masks.
Neither trainer takes a mask, so an example becomes one or more rows for which the trainer's own mask is the example's.
Histories hold no experience, and so the rows hold none.

trl: JSON lines `{"prompt": [messages], "completion": [one message], ...}`, one row for each trained turn. By default,
    TRL's SFTTrainer computes the loss on the completion alone, and it needs no chat template with generation marks.

verl: a column `messages`, for `data.messages_key=messages`. The file is Parquet, the only format that verl 0.9.1 reads,
    or JSON lines, which `datasets.load_dataset("json", data_files="examples.jsonl", split="train").to_parquet(...)`
    converts to Parquet. verl's `MultiTurnSFTDataset` trains on every message with the role assistant and cannot leave
    one out. A row is a sequence of consecutive trained turns and what came between them. Earlier assistant turns, which
    must not be trained, are folded into the user message before the sequence, as the text to which a ChatML template
    renders them: the tokens are those of the conversation, but verl sees a user message. Rows with `folded` true are
    therefore for ChatML models only (Qwen2 and 2.5, SmolLM2); the others are for any model.

A row also says where it came from: kind, run, step (of training), task_key, attempt, turns (the trained ones, counted
from 1), folded. Neither trainer reads these. Rows are not weighted by beta: mix the kinds in proportion instead.

Differences from training inside leafe-verl, in tokens:
    - the same turns are trained, including their end-of-turn tokens;
    - both trainers also train on what the template puts after an end-of-turn token (a line break in ChatML). Here that
      is context, since a policy's turn is over before it;
    - text is tokenised again, so a turn's tokens may differ from the sampled ones (which need not be the shortest
      tokenisation, and whose special tokens other than the last are not in the text);
    - an action that the token limit cut is never trained: the template would teach the model to end its turn there;
    - examples that train on observations (Early Experience's world model) are not assistant turns and not exported;
    - tokens of failed turns are not masked in the context of recovery targets;
    - characters that UTF-8 cannot encode become question marks, as no tokenizer takes them.

Trees that are stored without tokens, as those of evaluations, have no masks and cannot be exported.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from leafe_verl.core import Example, ExplorationTree, Kind, Message, StepRecord, build_examples
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.trees.conditions import Condition, all_hold
from leafe_verl.trees.listing import require_files
from leafe_verl.trees.reader import Folder, earliest, read_summaries, read_tree
from leafe_verl.trees.schema import MESSAGE, Provenance
from leafe_verl.trees.text import map_text

SUFFIXES = {"trl": (".jsonl",), "verl": (".parquet", ".jsonl")}
"""Format -> allowed endings of its file."""
KINDS = (Kind.COUNTERFACTUAL, Kind.REHEARSAL, Kind.RECOVERY)

BEFORE_ACTION = "<|im_end|>\n<|im_start|>assistant\n"
AFTER_ACTION = "<|im_end|>\n<|im_start|>user\n"
"""ChatML's text between an observation and an action, and between an action and an observation."""

_ORIGIN = [
    ("kind", pa.string()),
    ("run", pa.string()),
    ("step", pa.int64()),
    ("task_key", pa.string()),
    ("attempt", pa.int32()),
    ("turns", pa.list_(pa.int32())),
    ("folded", pa.bool_()),
]
VERL_SCHEMA = pa.schema([("messages", pa.list_(MESSAGE)), *_ORIGIN])

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Which examples to export, and how."""

    settings: DistillationSettings = DistillationSettings()
    kinds: tuple[Kind, ...] = KINDS
    conditions: tuple[Condition, ...] = ()
    seed: int | None = None
    """Seeds the choice of examples. None: the seed stored with each tree, which chooses what training chose."""
    form: str = "trl"
    """Format of the file, a key of SUFFIXES."""


def export(store: Folder, out: Folder, options: ExportOptions) -> Counter[str]:
    """Write the rows of a store's examples. Return the numbers of trees, examples of each kind, rows and folded rows.

    Of trees with the same run, step and task, the one that was collected first is exported. Raises ValueError if `out`
    exists or has the wrong ending for its format, and for trees without tokens or without a seed.
    """
    out = Path(out)
    if out.suffix not in SUFFIXES[options.form]:
        raise ValueError(
            f"{out}: --format {options.form} writes {' or '.join(SUFFIXES[options.form])}; name the file so"
        )
    if out.exists():
        raise ValueError(f"{out} exists; expected a new file")
    require_files(store)
    counts: Counter[str] = Counter(trees=0, **{kind.value: 0 for kind in options.kinds}, rows=0, folded=0)
    rows = _rows(store, options, counts)
    part = out.with_name(f"{out.name}.part")
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".jsonl":
        with part.open("w", encoding="ascii") as file:
            _write_lines(rows, file)
    else:
        pq.write_table(pa.Table.from_pylist(list(rows), VERL_SCHEMA), part)
    os.replace(part, out)
    return counts


def build_rows(tree: ExplorationTree, example: Example, provenance: Provenance, form: str) -> list[Row]:
    """Return the rows of one example in one of the formats of SUFFIXES."""
    origin = {
        "kind": example.kind.value,
        "run": provenance.run,
        "step": provenance.step,
        "task_key": tree.task.key,
        "attempt": example.attempt,
    }
    path, turns = _path(tree, example), trained_turns(tree, example)
    if form == "trl":
        spoken = [(path[t - 1], t) for t in turns]
        rows = [
            {"prompt": [*step.history.messages], "completion": [_answer(step)], **origin, "turns": [t], "folded": False}
            for step, t in spoken
        ]
    else:
        rows = [_verl_row(path, run, origin) for run in _consecutive(turns)]
    return [_storable(row) for row in rows]


def trained_turns(tree: ExplorationTree, example: Example) -> list[int]:
    """Return the steps whose actions the example's mask trains, counted from 1 along the attempt's path."""
    mask = example.sequence.mask
    begins = [len(step.history.token_ids) for step in _path(tree, example)]
    return [t for t, begin in enumerate(begins, start=1) if any(mask[begin : begin + 1])]


def _path(tree: ExplorationTree, example: Example) -> tuple[StepRecord, ...]:
    """Return the steps of the example's attempt; for a recovery target, up to the step that has its action instead."""
    path = tree.path(example.attempt)
    if example.source is None:
        return path
    action = tree.path(example.source)[-1].action
    return (*path[: example.step - 1], dataclasses.replace(path[example.step - 1], action=action))


def fold(messages: Sequence[Message]) -> list[Message]:
    """Return a conversation that ends with a user message without its assistant messages.

    All messages after the system prompt become one user message, which a ChatML template renders to the same tokens.
    """
    system = [message for message in messages[:1] if message["role"] == "system"]
    between = {"assistant": BEFORE_ACTION, "user": AFTER_ACTION}
    first, *later = messages[len(system) :]
    text = first["content"] + "".join(between[message["role"]] + message["content"] for message in later)
    return [*system, {"role": "user", "content": text}]


def _rows(store: Folder, options: ExportOptions, counts: Counter[str]) -> Iterator[Row]:
    summaries = ((place, row) for place, row in read_summaries(store) if all_hold(options.conditions, row))
    for place in earliest(summaries).values():
        tree, provenance = read_tree(place)
        if not provenance.has_tokens:
            raise ValueError(
                f"{place}: stored without tokens, as evaluations are; export trees that training collected"
            )
        seed = provenance.seed if options.seed is None else options.seed
        if seed is None:
            raise ValueError(f"{place}: stored without a seed; choose one with --seed")
        counts["trees"] += 1
        for example in build_examples(tree, options.settings, seed):
            if example.kind in options.kinds:
                counts[example.kind.value] += 1
                for row in build_rows(tree, example, provenance, options.form):
                    counts.update(rows=1, folded=int(row["folded"]))
                    yield row


def _verl_row(path: Sequence[StepRecord], run: Sequence[int], origin: Row) -> Row:
    first, last = path[run[0] - 1], path[run[-1] - 1]
    before = first.history.messages
    folded = any(message["role"] == "assistant" for message in before)
    opening = fold(before) if folded else before
    messages = [*opening, *last.history.messages[len(before) :], _answer(last)]
    return {"messages": messages, **origin, "turns": list(run), "folded": folded}


def _consecutive(turns: Sequence[int]) -> list[list[int]]:
    """Split ascending numbers into runs of consecutive ones."""
    runs: list[list[int]] = []
    for turn in turns:
        if runs and turn == runs[-1][-1] + 1:
            runs[-1].append(turn)
        else:
            runs.append([turn])
    return runs


def _answer(step: StepRecord) -> Message:
    return {"role": "assistant", "content": step.action.text}


def _storable(row: Row) -> Row:
    storable: Row = map_text(row, lambda text: text.encode("utf-8", "replace").decode("utf-8"))
    return storable


def _write_lines(rows: Iterable[Row], file: TextIO) -> None:
    for row in rows:
        file.write(json.dumps(row) + "\n")
    file.flush()
    os.fsync(file.fileno())
