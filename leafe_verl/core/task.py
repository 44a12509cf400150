"""A task, which is one row of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Task:
    """What an agent is asked to do (q in the paper), and the data that its environment needs."""

    key: str
    """Unique name within a data set. Seeds and reports refer to it."""
    instruction: str
    """The request in words, as the data set states it."""
    environment: str = ""
    """Name of the environment that plays this task. A class may leave it empty in the tasks that it makes: `parse_rows`
    sets the name that was asked for."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Fields that the environment reads; JSON values only. The agent sees what the environment shows of them."""
