"""Defines how a tree is stored, schema version 1: one row of an Arrow table.

A store is a folder of Arrow IPC streams `trees-<host>-<pid>-<random>.arrow`; every process that writes has its own
file. Training writes one tree in each record batch, so that a killed process loses at most the tree it was writing. Any
Arrow reader can read the files:

    pyarrow.ipc.open_stream(path).read_pandas()
    datasets.load_dataset("arrow", data_files=f"{store}/trees-*.arrow")

The version is in the metadata of each file's schema, under `leafe_schema`. It rises only when an older reader would
misread a row. A new column needs no new version: readers ignore columns they do not know, and read null where an
optional column is missing.

There are two layouts. `SCHEMA` holds tokens, which training needs. `TEXT_SCHEMA` is for evaluations: it has no token
ids, log-probs or `answered` histories, and an action has `num_tokens` instead. Its column `has_tokens` is false.
Readers of version 1 that know `SCHEMA` alone can list such a file, and refuse to read its trees.

A file whose trees begin at a given history has one more column, `given`: the steps that every root goes on from, whose
first history has an empty base. Readers that do not know it refuse the trees, since their roots then share messages
with an empty base.

A record batch below 64 KiB is not compressed, a larger one by zstd (see writer.py). Arrow readers take both. Bytes that
the disk changes in text or tokens are noticed by neither.

A history is stored as what it adds to the history that it continues (see `_history`), so that the size of an attempt
grows with its tokens and not with its tokens times its steps. Text that UTF-8 cannot encode is escaped (see text.py).
Snapshots of environments are not stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa

VERSION = "1"
VERSION_KEY = "leafe_schema"
PATTERN = "trees-*.arrow"


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


MESSAGE = pa.struct([_required("role", pa.string()), _required("content", pa.string())])


def _history(tokens: bool) -> pa.DataType:
    token_columns = [
        # Number of leading tokens shared with the base. For the first step of a root, the base is empty, or the last
        # given step's history followed by its action. For the first step of a branch, it is the history of the step
        # that it rolled back to. For any other step, it is the history of the previous step followed by that step's
        # action. For `answered`, it is the step's own history followed by its action.
        _required("shared_tokens", pa.int32()),
        _required("new_token_ids", pa.list_(pa.int32())),
    ]
    message_columns = [
        # The same for messages. Here the base ends with the action as an assistant message and the observation as a
        # user message, so that a history that was only continued has no new messages.
        _required("shared_messages", pa.int32()),
        _required("new_messages", pa.list_(MESSAGE)),
    ]
    return pa.struct([*token_columns, *message_columns] if tokens else message_columns)


def _action(tokens: bool) -> pa.DataType:
    token_columns = [
        _required("token_ids", pa.list_(pa.int32())),  # as sampled, with `num_added` and `num_closing` others
        pa.field("log_probs", pa.list_(pa.float64())),  # natural logarithm, one for each token; null if unknown
        pa.field("num_added", pa.int32()),  # end-of-turn tokens that nobody sampled; null means 0
        pa.field("num_thoughts", pa.int32()),  # leading tokens that are thoughts; null means 0
        pa.field("num_closing", pa.int32()),  # the last of them, which nobody sampled; null means 0
    ]
    return pa.struct(
        [
            _required("text", pa.string()),
            *(token_columns if tokens else [_required("num_tokens", pa.int32())]),
            _required("complete", pa.bool_()),  # false if the token limit cut the action
        ]
    )


def _step(tokens: bool) -> pa.DataType:
    # The history with the observation at its end, on the last step of a token sequence; null unless observations are
    # trained on.
    answered = [pa.field("answered", _history(tokens))] if tokens else []
    return pa.struct(
        [
            _required("history", _history(tokens)),
            _required("action", _action(tokens)),
            _required("observation", pa.string()),
            _required("reward", pa.float64()),
            _required("error", pa.bool_()),  # the observation reports an error
            # The environment's verdict: the action has failed; null if it has none. Stores of earlier versions lack the
            # column; there an error is a failed action.
            pa.field("failed", pa.bool_()),
            # A time limit of the environment stopped what the action runs; null in stores of earlier versions.
            pa.field("timed_out", pa.bool_()),
            pa.field("command", pa.string()),  # the executed part of the action; null if the environment does not say
            *answered,
        ]
    )


BRANCH = pa.struct(
    [
        _required("parent", pa.int32()),  # index in `attempts`, smaller than the branch's own
        _required("step", pa.int32()),  # tau, counted from 1 along the parent's path
        _required("depth", pa.int32()),  # 1 for a branch of a root
        _required("reflection", pa.int32()),  # index in `reflections`
    ]
)


def _attempt(tokens: bool) -> pa.DataType:
    return pa.struct(
        [
            pa.field("branch", BRANCH),  # null for a root
            _required("outcome", pa.string()),  # value of core.Outcome
            pa.field("error", pa.string()),  # what broke; null for scored outcomes
            _required("replayed_steps", pa.int32()),
            pa.field("unplayed_steps", pa.int32()),  # steps left up to the horizon when it ended; null means 0
            _required("steps", pa.list_(_step(tokens))),  # the steps that the attempt executed itself
        ]
    )


REFLECTION = pa.struct(
    [
        _required("attempt", pa.int32()),  # index of the attempt that was reflected on
        _required("step", pa.int32()),  # tau, from 1 to num_steps
        _required("experience", pa.string()),
        _required("parsed", pa.bool_()),  # false for the fallback
        _required("text", pa.string()),
        _required("num_tokens", pa.int32()),
        _required("num_steps", pa.int32()),
    ]
)

RECOVERY = pa.struct(
    [
        _required("attempt", pa.int32()),  # index of the attempt whose step before `step` failed
        _required("step", pa.int32()),  # t, at least 2, counted from 1 along that attempt's path
        _required("source", pa.int32()),  # index of the successful attempt whose last action was executed there
        _required("outcome", pa.string()),  # value of core.Outcome
        _required("replayed_steps", pa.int32()),
    ]
)


# A scored root, as core.recovery_figures.PlainAttempt keeps it.
PLAIN_ATTEMPT = pa.struct(
    [
        _required("solved", pa.bool_()),
        _required("turns", pa.int32()),
        _required("failed", pa.list_(pa.int32())),  # turns that failed and were followed by another, counted from 1
        _required("repeats", pa.int32()),
        pa.field("unplayed", pa.int32()),  # null means 0
    ]
)


_PROVENANCE = [
    pa.field("run", pa.string()),
    pa.field("step", pa.int64()),  # training step that collected the tree; null outside training
    pa.field("seed", pa.int64()),  # leafe.seed
    pa.field("model", pa.string()),
    pa.field("tokenizer", pa.string()),
    pa.field("weight_version_min", pa.int64()),
    pa.field("weight_version_max", pa.int64()),
    pa.field("collected_at", pa.timestamp("us", tz="UTC")),
    pa.field("has_tokens", pa.bool_()),  # null means true
    pa.field("dtype", pa.string()),  # precision that rollout and trainer computed in; null if unknown
]
_TASK = [
    _required("task_key", pa.string()),
    _required("environment", pa.string()),
    _required("instruction", pa.string()),
    _required("task_data", pa.string()),  # Task.data as JSON
]
# Computed from the tree, so that trees can be selected without reading them.
_COMPUTED = [
    pa.field("num_attempts", pa.int64()),
    pa.field("num_branches", pa.int64()),
    pa.field("num_improved", pa.int64()),  # branches with a higher best return than the attempt they left
    # Scored attempts, and those that ended in success; null in stores of earlier versions.
    pa.field("num_scored", pa.int64()),
    pa.field("num_solved", pa.int64()),
    pa.field("solved", pa.bool_()),  # an attempt ended in success
    pa.field("best_return", pa.float64()),  # highest return of a scored attempt after any step; null if none
    pa.field("sampled_tokens", pa.int64()),  # tokens of actions and reflections
    pa.field("environment_steps", pa.int64()),  # of attempts and recovery targets, without replayed steps
    pa.field("history_key", pa.string()),  # names the given steps (core.given); null if there are none
]


def _schema(tokens: bool) -> pa.Schema:
    tree = [
        _required("attempts", pa.list_(_attempt(tokens))),  # in breadth-first order
        _required("reflections", pa.list_(REFLECTION)),  # in the order of their requests
        pa.field("recoveries", pa.list_(RECOVERY)),  # in the order of their execution; null if they were not looked for
    ]
    evaluated = [  # null outside of evaluations
        pa.field("counts", pa.string()),  # counts of core.statistics as JSON
        pa.field("plain_attempts", pa.list_(PLAIN_ATTEMPT)),  # null in evaluations of earlier versions
    ]
    return pa.schema([*_PROVENANCE, *_TASK, *tree, *_COMPUTED, *evaluated], metadata={VERSION_KEY: VERSION})


SCHEMA = _schema(tokens=True)
TEXT_SCHEMA = _schema(tokens=False)

GIVEN = "given"


def layout(*, tokens: bool, given: bool) -> pa.Schema:
    """Return the columns of a file whose trees hold tokens or not, and begin at given steps or at the task's start."""
    schema = SCHEMA if tokens else TEXT_SCHEMA
    return schema.append(pa.field(GIVEN, pa.list_(_step(tokens)))) if given else schema


REQUIRED = tuple(column.name for column in SCHEMA if not column.nullable)
PROVENANCE = tuple(column.name for column in _PROVENANCE)
SUMMARY = (*PROVENANCE, "task_key", "environment", *(column.name for column in _COMPUTED))
"""Columns with one short value, which `--where` can compare."""


@dataclass(frozen=True)
class Provenance:
    """The origin of a tree."""

    run: str | None = None
    """Name of the run, usually the name of its RUN_DIR."""
    step: int | None = None
    """Training step that collected the tree; None outside training."""
    seed: int | None = None
    """leafe.seed, which seeds the environments and the choice of examples."""
    model: str | None = None
    """Path or name of the model at the start of training."""
    tokenizer: str | None = None
    """Fingerprint of the tokenizer. Token ids are comparable only between trees with the same fingerprint."""
    weight_version_min: int | None = None
    """First training step whose weights sampled part of the tree."""
    weight_version_max: int | None = None
    """Last training step whose weights sampled part of the tree."""
    collected_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    """Time with a time zone, stored to the microsecond."""
    has_tokens: bool = True
    """Whether token ids and log-probs are stored. Evaluations store the text and the number of tokens alone."""
    dtype: str | None = None
    """Precision that rollout and trainer computed in, such as `float32`; None for trees of earlier versions."""


def check_schema(schema: pa.Schema, where: object) -> None:
    """Raise ValueError unless this version can read `schema`, which is that of the file `where`."""
    found = (schema.metadata or {}).get(VERSION_KEY.encode(), b"").decode("utf-8", "replace")
    if found != VERSION:
        what = f"{VERSION_KEY} {found!r}" if found else f"no {VERSION_KEY} in its metadata"
        raise ValueError(
            f"{where}: {what}; expected {VERSION!r}. Read it with the version of leafe-verl that wrote it, or move it "
            "out of the store"
        )
    if missing := [name for name in REQUIRED if name not in schema.names]:
        raise ValueError(f"{where}: no column {', '.join(missing)}; {VERSION_KEY} {VERSION} requires it")
