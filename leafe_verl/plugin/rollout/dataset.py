"""A data set for verl that reads our task files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import datasets
from verl.utils.dataset.rl_dataset import RLHFDataset

from leafe_verl.core import Task
from leafe_verl.environments.rows import build_verl_row
from leafe_verl.task_files import KEEP, read_tasks

TASK_FIELD = "task"
"""Field of a row's `extra_info` that carries the task to the agent loop, as JSON."""


class TaskDataset(RLHFDataset):  # type: ignore[misc]  # verl is Any to mypy
    """Rows in verl's format, each of which carries its task. `data.environment` names the environment, and
    `data.several_answers` says what becomes of tasks with several right answers."""

    def _download(self, use_origin_parquet: bool = False) -> None:
        """Do nothing, because task files are read from where they are."""

    def _read_files_and_tokenize(self) -> None:
        chosen = (self.config.environment, self.config.get("several_answers", KEEP))
        tasks = [task for source in self.original_data_files for task in read_tasks(source, *chosen)]
        if 0 < self.max_samples < len(tasks):
            tasks = tasks[: self.max_samples]
        self.dataframe = datasets.Dataset.from_list([task_row(task, index) for index, task in enumerate(tasks)])


def task_row(task: Task, index: int) -> dict[str, Any]:
    """Return a row in verl's format that carries the task."""
    row = build_verl_row(task, "", index)
    row["extra_info"] = {"index": index, TASK_FIELD: json.dumps(dataclasses.asdict(task))}
    return row


def read_task(extra_info: Mapping[str, Any]) -> Task:
    """Return the task that a row's `extra_info` carries."""
    return Task(**json.loads(extra_info[TASK_FIELD]))
