"""The form of a stored tree, version 1: one row of an Arrow table, and what the folder of such rows is.

A store is a folder of Arrow IPC streams `trees-<host>-<pid>-<random>.arrow`, one for each process that wrote. A record
batch holds one tree, so that a killed process loses at most the tree it was writing. Any Arrow reader reads it:

    pyarrow.ipc.open_stream(path).read_pandas()
    datasets.load_dataset("arrow", data_files=f"{store}/trees-*.arrow")

The version stands in the metadata of every file's schema under `leafe_schema`. It rises only when an older reader would
misread a row: a column that is new is no new version, since readers pass over what they do not know and read null where
an optional column is missing.

A history is stored as what it adds to the one it continues (`HISTORY`), which keeps an attempt's size proportional to
its tokens instead of its tokens times its steps. Text that UTF-8 cannot hold is escaped; see text.py. Snapshots of
environments are not stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone

import pyarrow as pa

VERSION = "1"
VERSION_KEY = "leafe_schema"
PATTERN = "trees-*.arrow"


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


MESSAGE = pa.struct([_required("role", pa.string()), _required("content", pa.string())])

HISTORY = pa.struct(
    [
        # Leading tokens that are those of the base. The base of a first step of a root is empty; of a first step of a
        # branch, the history of the step it rolled back to; of any other step, the history of the step before it
        # followed by that step's action; of `answered`, its own step's history followed by its action.
        _required("shared_tokens", pa.int32()),
        _required("new_token_ids", pa.list_(pa.int32())),
        # The same for messages; the base ends with the action as an assistant's message and with the observation as a
        # user's, so that nothing is new to a history that was merely continued.
        _required("shared_messages", pa.int32()),
        _required("new_messages", pa.list_(MESSAGE)),
    ]
)

ACTION = pa.struct(
    [
        _required("text", pa.string()),
        _required("token_ids", pa.list_(pa.int32())),  # as sampled
        pa.field("log_probs", pa.list_(pa.float64())),  # natural logarithm, one a token; null where there were none
        _required("complete", pa.bool_()),  # false: cut by the token limit
    ]
)

STEP = pa.struct(
    [
        _required("history", HISTORY),
        _required("action", ACTION),
        _required("observation", pa.string()),
        _required("reward", pa.float64()),
        _required("error", pa.bool_()),  # the observation reports an error
        pa.field("command", pa.string()),  # what of the action was executed; null where the environment does not say
        # The history with the observation at its end, where no next step goes on like that; null unless observations
        # are trained on.
        pa.field("answered", HISTORY),
    ]
)

BRANCH = pa.struct(
    [
        _required("parent", pa.int32()),  # index in `attempts`, smaller than the branch's own
        _required("step", pa.int32()),  # tau, from 1 along the parent's path
        _required("depth", pa.int32()),  # 1 for a branch of a root
        _required("reflection", pa.int32()),  # index in `reflections`
    ]
)

ATTEMPT = pa.struct(
    [
        pa.field("branch", BRANCH),  # null for a root
        _required("outcome", pa.string()),  # core.Outcome's value
        pa.field("error", pa.string()),  # what broke, null for scored outcomes
        _required("replayed_steps", pa.int32()),
        _required("steps", pa.list_(STEP)),  # those the attempt executed itself
    ]
)

REFLECTION = pa.struct(
    [
        _required("attempt", pa.int32()),  # index of the attempt it looked at
        _required("step", pa.int32()),  # tau, from 1 to num_steps
        _required("experience", pa.string()),
        _required("parsed", pa.bool_()),  # false for the fallback
        _required("text", pa.string()),
        _required("num_tokens", pa.int32()),
        _required("num_steps", pa.int32()),
    ]
)

SCHEMA = pa.schema(
    [
        # Provenance
        pa.field("run", pa.string()),
        pa.field("step", pa.int64()),  # training step that collected the tree, null outside training
        pa.field("seed", pa.int64()),  # leafe.seed
        pa.field("model", pa.string()),
        pa.field("tokenizer", pa.string()),
        pa.field("weight_version_min", pa.int64()),
        pa.field("weight_version_max", pa.int64()),
        pa.field("collected_at", pa.timestamp("us", tz="UTC")),
        # The task
        _required("task_key", pa.string()),
        _required("environment", pa.string()),
        _required("instruction", pa.string()),
        _required("task_data", pa.string()),  # Task.data as JSON
        # The tree
        _required("attempts", pa.list_(ATTEMPT)),  # in breadth-first order
        _required("reflections", pa.list_(REFLECTION)),  # in the order of their requests
        # Drawn from the tree, cheap to choose by
        pa.field("num_attempts", pa.int64()),
        pa.field("num_branches", pa.int64()),
        pa.field("num_improved", pa.int64()),  # branches whose best return exceeds that of the attempt they left
        pa.field("solved", pa.bool_()),  # an attempt ended in success
        pa.field("best_return", pa.float64()),  # highest of any scored attempt after any step; null without one
        pa.field("sampled_tokens", pa.int64()),  # of actions and reflections
        pa.field("environment_steps", pa.int64()),  # replayed ones not counted
    ],
    metadata={VERSION_KEY: VERSION},
)

REQUIRED = tuple(column.name for column in SCHEMA if not column.nullable)
PROVENANCE = tuple(SCHEMA.names[: SCHEMA.names.index("task_key")])
DRAWN = tuple(SCHEMA.names[SCHEMA.names.index("reflections") + 1 :])
"""Columns that repeat what the tree says."""
SUMMARY = (*PROVENANCE, "task_key", "environment", *DRAWN)
"""Columns of one short value, which `--where` compares."""


@dataclass(frozen=True)
class Provenance:
    """Where a tree came from."""

    run: str | None = None
    """Name of the run, as a rule that of its RUN_DIR."""
    step: int | None = None
    """Training step that collected it; None outside training."""
    seed: int | None = None
    """leafe.seed, which environments and the choice of examples were seeded with."""
    model: str | None = None
    """Path or name of the model that training began with."""
    tokenizer: str | None = None
    """Fingerprint of the tokenizer: token ids of stores that differ in it are not of one kind."""
    weight_version_min: int | None = None
    """Lowest training step whose weights sampled for the tree."""
    weight_version_max: int | None = None
    collected_at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    """With a time zone; kept to the microsecond."""


def check_schema(schema: pa.Schema, where: object) -> None:
    """Raise ValueError unless `schema`, of the file `where`, is one that this version reads."""
    found = (schema.metadata or {}).get(VERSION_KEY.encode(), b"").decode("utf-8", "replace")
    if found != VERSION:
        what = f"{VERSION_KEY} {found!r}" if found else f"no {VERSION_KEY} in its metadata"
        raise ValueError(
            f"{where}: {what}; expected {VERSION!r}. Read it with the version of leafe-verl that wrote it, or move it "
            "out of the store"
        )
    if missing := [name for name in REQUIRED if name not in schema.names]:
        raise ValueError(f"{where}: no column {', '.join(missing)}; {VERSION_KEY} {VERSION} requires it")
