"""A data set of several environments' tasks, each played by its own: one run instead of one for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leafe_verl.core import Task
from leafe_verl.environments import environment_class


class Mixture:
    """Reads rows {"environment": name, "row": that environment's own}. Its tasks name who plays them."""

    def close(self) -> None:
        """Does nothing: tasks are played by the environments that they name."""

    @classmethod
    def task(cls, row: Mapping[str, Any], *, default_key: str | None = None) -> Task:
        task: Task = environment_class(row["environment"]).task(row["row"], default_key=default_key)
        return task
