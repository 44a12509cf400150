"""A task: one frozen row of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Task:
    """What an agent is asked to do, with what its environment needs to start (q in the paper)."""

    key: str
    """Unique within a data set; seeds and reports refer to it."""
    instruction: str
    """The request in words, as the data set has it."""
    environment: str
    """Registered name of the environment that plays this task."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """The environment's own fields, JSON values only. The agent sees what the environment shows of them."""
