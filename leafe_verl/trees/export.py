"""SFT examples as chat messages, for the SFT trainers of TRL and of verl.

Which turns are trained is read off the masks of `core.build_examples`: one place decides, here as in training. Neither
trainer takes a mask, so that an example becomes rows in which the trainer's own mask is the example's. No history holds
an experience, hence no row does.

trl: JSON lines `{"prompt": [messages], "completion": [one message], ...}`, one row for each trained turn. TRL's
    SFTTrainer computes the loss on a completion alone, by default, and needs no chat template with generation marks.

verl: a column `messages`, for `data.messages_key=messages`, as Parquet, which is all that verl 0.9.1 reads, or as JSON
    lines, which `datasets.load_dataset("json", data_files="examples.jsonl", split="train").to_parquet(...)` makes
    Parquet of. verl's `MultiTurnSFTDataset` trains on every message whose role is assistant, with no way to leave one
    out. A row is a run of consecutive trained turns with what came between them. Assistant turns before the run, which
    must not be trained, are folded into the user's message before it, as the very text by which a ChatML template
    renders them: the tokens are those of the conversation, while verl sees a user's message. Rows with `folded` true
    are therefore for ChatML models (Qwen2 and 2.5, SmolLM2) alone; the others are for any.

A row also says where it came from: kind, run, step (of training), task_key, attempt, turns (the trained ones, counted
from 1), folded. Neither trainer reads these. beta is not in the rows: mix the kinds in proportion to weigh them.

Compared with training inside leafe-verl, token for token:
    - the same turns are trained, and their end-of-turn tokens with them;
    - both trainers also train on what the template puts behind an end-of-turn token (a line break in ChatML), which is
      context here: no policy ever samples it, since its turn is over;
    - text is tokenised anew, so that a turn's tokens may be others than those sampled (which need not be the shortest,
      and whose special tokens other than the last are not in the text);
    - an action that the token limit cut is never trained: the template would teach to end a turn there;
    - examples that train on observations (Early Experience's world model) are not assistant turns and not exported;
    - text that UTF-8 cannot hold becomes a question mark, as no tokenizer takes it.
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
from leafe_verl.trees.reader import earliest, read_summaries, read_tree
from leafe_verl.trees.schema import MESSAGE, Provenance
from leafe_verl.trees.text import map_text

SUFFIXES = {"trl": (".jsonl",), "verl": (".parquet", ".jsonl")}
"""Format -> endings of its file."""
KINDS = (Kind.COUNTERFACTUAL, Kind.REHEARSAL)

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
class Choice:
    """Which examples to export, and how."""

    settings: DistillationSettings = DistillationSettings()
    kinds: tuple[Kind, ...] = KINDS
    conditions: tuple[Condition, ...] = ()
    seed: int | None = None
    """Of the choice of examples. None: the seed stored with each tree, which chooses those that training chose."""
    form: str = "trl"
    """A key of SUFFIXES."""


def export(store: Path, out: Path, choice: Choice) -> Counter[str]:
    """Write the rows of a store's examples, and return the number of trees, examples of each kind, rows, folded rows.

    Of trees with the same run, step and task, the one collected first is exported. Raises ValueError when `out` has
    another ending than the format's, or exists.
    """
    if out.suffix not in SUFFIXES[choice.form]:
        raise ValueError(f"{out}: --format {choice.form} writes {' or '.join(SUFFIXES[choice.form])}; name the file so")
    if out.exists():
        raise ValueError(f"{out} exists; expected a new file")
    require_files(store)
    counts: Counter[str] = Counter(trees=0, **{kind.value: 0 for kind in choice.kinds}, rows=0, folded=0)
    rows = _rows(store, choice, counts)
    part = out.with_name(f"{out.name}.part")
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".jsonl":
        with part.open("w", encoding="ascii") as file:
            _write_lines(rows, file)
    else:
        pq.write_table(pa.Table.from_pylist(list(rows), VERL_SCHEMA), part)
    os.replace(part, out)
    return counts


def rows_of(tree: ExplorationTree, example: Example, provenance: Provenance, form: str) -> list[Row]:
    """Return the rows of one example in one of the formats of SUFFIXES."""
    origin = {
        "kind": example.kind.value,
        "run": provenance.run,
        "step": provenance.step,
        "task_key": tree.task.key,
        "attempt": example.attempt,
    }
    path, turns = tree.path(example.attempt), trained_turns(tree, example)
    if form == "trl":
        spoken = [(path[t - 1], t) for t in turns]
        rows = [
            {"prompt": [*step.history.messages], "completion": [_said(step)], **origin, "turns": [t], "folded": False}
            for step, t in spoken
        ]
    else:
        rows = [_verl_row(path, run, origin) for run in _runs(turns)]
    return [_storable(row) for row in rows]


def trained_turns(tree: ExplorationTree, example: Example) -> list[int]:
    """The steps, counted from 1 along the attempt's path, whose actions the example's mask trains."""
    mask = example.sequence.mask
    begins = [len(step.history.token_ids) for step in tree.path(example.attempt)]
    return [t for t, begin in enumerate(begins, start=1) if any(mask[begin : begin + 1])]


def fold(messages: Sequence[Message]) -> list[Message]:
    """Return a conversation that ends with a user's message without assistant messages: all that followed the system
    prompt as one user message, whose text a ChatML template renders to the same tokens."""
    system = [message for message in messages[:1] if message["role"] == "system"]
    between = {"assistant": BEFORE_ACTION, "user": AFTER_ACTION}
    first, *later = messages[len(system) :]
    text = first["content"] + "".join(between[message["role"]] + message["content"] for message in later)
    return [*system, {"role": "user", "content": text}]


def _rows(store: Path, choice: Choice, counts: Counter[str]) -> Iterator[Row]:
    summaries = ((place, row) for place, row in read_summaries(store) if all_hold(choice.conditions, row))
    for place in earliest(summaries).values():
        tree, provenance = read_tree(place)
        seed = provenance.seed if choice.seed is None else choice.seed
        if seed is None:
            raise ValueError(f"{place}: stored without a seed; choose one with --seed")
        counts["trees"] += 1
        for example in build_examples(tree, choice.settings, seed):
            if example.kind in choice.kinds:
                counts[example.kind.value] += 1
                for row in rows_of(tree, example, provenance, choice.form):
                    counts.update(rows=1, folded=int(row["folded"]))
                    yield row


def _verl_row(path: Sequence[StepRecord], run: Sequence[int], origin: Row) -> Row:
    first, last = path[run[0] - 1], path[run[-1] - 1]
    before = first.history.messages
    folded = any(message["role"] == "assistant" for message in before)
    opening = fold(before) if folded else before
    messages = [*opening, *last.history.messages[len(before) :], _said(last)]
    return {"messages": messages, **origin, "turns": list(run), "folded": folded}


def _runs(turns: Sequence[int]) -> list[list[int]]:
    """Split ascending numbers where one is missing."""
    runs: list[list[int]] = []
    for turn in turns:
        if runs and turn == runs[-1][-1] + 1:
            runs[-1].append(turn)
        else:
            runs.append([turn])
    return runs


def _said(step: StepRecord) -> Message:
    return {"role": "assistant", "content": step.action.text}


def _storable(row: Row) -> Row:
    storable: Row = map_text(row, lambda text: text.encode("utf-8", "replace").decode("utf-8"))
    return storable


def _write_lines(rows: Iterable[Row], file: TextIO) -> None:
    for row in rows:
        file.write(json.dumps(row) + "\n")
    file.flush()
    os.fsync(file.fileno())
