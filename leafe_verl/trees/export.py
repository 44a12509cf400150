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

Thoughts before an answer, as `<think> ... </think>`, are part of its message, so that TRL trains on them where the
model's template writes them (Qwen3's does, DeepSeek-R1's does not). verl renders each turn alone, where Qwen3's
template drops them. What templates leave out is carried by **verbatim** rows: their messages hold the rendered text,
and are an assistant's where the mask trains. They are for any model, and go with a chat template that writes messages
as they are, FILE.jinja beside the file: `SFTConfig(chat_template_path="FILE.jinja")` in TRL, and
`model.custom_chat_template="'$(cat FILE.jinja)'"` for verl's trainer. Earlier thoughts, thoughts that are not trained
on, turns that are not trained on and ends of turns are then those of training inside leafe-verl.

With a tokenizer every row is read as its trainer reads it. A row that would train something else is left out and
counted: as `control_tokens`, if its text spells a control token, which the trainer would take for one; as
`other_tokens`, if the chat template renders it otherwise. If no row is left, nothing is written. Without a tokenizer a
row is left out if it spells what most tokenizers take for a control token, and as `thoughts` if it holds thoughts.

A row also says where it came from: kind, run, step (of training), task_key, attempt, turns (the trained ones, counted
from 1), folded. Neither trainer reads these. Rows are not weighted by beta: mix the kinds in proportion instead.

Differences from training inside leafe-verl, in tokens, of rows that are not verbatim:
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
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from leafe_verl.core import Kind, build_examples
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.trees.conditions import Condition, all_hold, columns_of
from leafe_verl.trees.export_rows import Row, sound_rows
from leafe_verl.trees.reader import CHOICE, Folder, batch_reader, earliest, read_standing, read_tree, require_files
from leafe_verl.trees.rendering import REASONS, VERBATIM, RowReader
from leafe_verl.trees.schema import MESSAGE

SUFFIXES = {"trl": (".jsonl",), "verl": (".parquet", ".jsonl")}
"""Format -> allowed endings of its file."""
ROW_GROUP = 1024
"""Rows that are written together into a Parquet file."""
KINDS = (Kind.COUNTERFACTUAL, Kind.REHEARSAL, Kind.RECOVERY)

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
    reader: RowReader | None = None
    """Reads every row as its trainer does. None: rows are only searched for what is a control token in most tokenizers.
    """
    verbatim: bool = False
    """Whether rows hold the rendered text; needs a reader."""


def export(store: Folder, out: Folder, options: ExportOptions) -> Counter[str]:
    """Write the rows of a store's examples. Return the numbers of trees, examples of each kind, rows and folded rows,
    and of rows that were left out, by the keys of REASONS.

    Of trees with the same run, step and task, the one that was collected first is exported. Raises ValueError if `out`
    exists or has the wrong ending for its format, for trees without tokens or without a seed, and if all rows are left
    out.
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
    try:
        if out.suffix == ".jsonl":
            with part.open("w", encoding="ascii") as file:
                _write_lines(rows, file)
        else:
            _write_parquet(rows, part)
        _require_rows(counts)
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    if options.verbatim:
        out.with_name(f"{out.name}.jinja").write_text(VERBATIM, encoding="utf-8")
    return counts


def _require_rows(counts: Counter[str]) -> None:
    """Raise ValueError if every row was left out."""
    reasons = [f"{counts[name]} because {reason}" for name, reason in REASONS.items() if counts[name]]
    if reasons and not counts["rows"]:
        raise ValueError(
            f"no row can be exported: {'; '.join(reasons)}. --verbatim with --tokenizer writes the rendered text, "
            "which carries thoughts and turns that a chat template leaves out"
        )


def _rows(store: Folder, options: ExportOptions, counts: Counter[str]) -> Iterator[Row]:
    columns, read = columns_of(options.conditions, CHOICE), batch_reader()
    summaries = ((place, row) for place, row in read_standing(store, columns) if all_hold(options.conditions, row))
    for place in earliest(summaries).values():
        tree, provenance = read_tree(place, read)
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
                origin = (tree, example, provenance, options.form, options.reader)
                for row, problem in sound_rows(*origin, verbatim=options.verbatim):
                    if problem:
                        counts[problem] += 1
                    else:
                        counts.update(rows=1, folded=int(row["folded"]))
                        yield row


def _write_parquet(rows: Iterator[Row], path: Path) -> None:
    """Write groups of rows, so that memory holds one of them."""
    with pq.ParquetWriter(path, VERL_SCHEMA) as writer:
        while group := list(itertools.islice(rows, ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, VERL_SCHEMA))


def _write_lines(rows: Iterable[Row], file: TextIO) -> None:
    for row in rows:
        file.write(json.dumps(row) + "\n")
    file.flush()
    os.fsync(file.fileno())
