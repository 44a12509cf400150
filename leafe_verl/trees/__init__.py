"""Stores exploration trees on disk: durable, append-only, with one file for each process that writes; see schema.py."""

from leafe_verl.trees.following import StoreFollower
from leafe_verl.trees.reader import (
    Location,
    TreeKey,
    index,
    read_rows,
    read_summaries,
    read_tree,
    read_trees,
)
from leafe_verl.trees.schema import SCHEMA, VERSION, Provenance
from leafe_verl.trees.writer import TreeWriter

__all__ = [
    "SCHEMA",
    "VERSION",
    "Location",
    "Provenance",
    "StoreFollower",
    "TreeKey",
    "TreeWriter",
    "index",
    "read_rows",
    "read_summaries",
    "read_tree",
    "read_trees",
]
