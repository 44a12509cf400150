"""Agent loops and data set of `leafe-verl evaluate`, which plays what a store still lacks and keeps every attempt."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from omegaconf import DictConfig
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register

from leafe_verl.core import Example, ExplorationTree
from leafe_verl.core.given import GivenHistory, count_after_given
from leafe_verl.core.statistics import count
from leafe_verl.evaluation.results import missing_attempts, read_evaluation
from leafe_verl.plugin.precision import find_precision
from leafe_verl.plugin.rollout.dataset import TaskDataset, read_task
from leafe_verl.plugin.rollout.episode_loops import EpisodeLoop
from leafe_verl.plugin.rollout.explore_loops import ExploreLoop
from leafe_verl.plugin.rollout.given_histories import HISTORY_FIELD, history_rows, in_own_tokens
from leafe_verl.plugin.rollout.task_loop import TaskLoop, describe_row
from leafe_verl.trees import Provenance

logger = logging.getLogger(__name__)

RECORD = "record_"
"""Prefix of the names of loops that also keep what they play."""


def validation_loop(evaluation: DictConfig) -> str:
    """Return the name of the agent loop that `leafe.evaluation` asks for."""
    if evaluation.get("given"):
        return f"{RECORD}given"
    return f"{RECORD}{evaluation.loop}" if evaluation.store else str(evaluation.loop)


class RecordingLoop(TaskLoop):
    """Mixin to list before a loop class: it keeps the loop's tree and returns no trained tokens to verl."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> list[AgentLoopOutput]:
        """Play, and return one empty output, also for unscored attempts: the store records how they ended."""
        self._row = kwargs
        await super().run(sampling_params, **kwargs)
        return [self.empty_output()]

    def finished(self, tree: ExplorationTree, examples: list[Example]) -> None:
        """Append the tree to the store of the evaluation, once all attempts at its row have ended."""
        if (store := self.settings.evaluation.store) is None:
            raise ValueError(f"agent loops named {RECORD}* keep what they play: set leafe.evaluation.store")
        provenance = Provenance(
            run=str(self.config.trainer.experiment_name),
            seed=self.environment_seed,
            model=self.config.actor_rollout_ref.model.path,
            has_tokens=False,
            dtype=find_precision(self.config),
        )
        writer, counts = self.worker.tree_writer(store), self.counts(tree, examples)
        append = functools.partial(writer.append, tree, provenance, counts)
        self.worker.keep(self._row["uid"], int(self._row["session_id"]), append)

    def counts(self, tree: ExplorationTree, examples: list[Example]) -> dict[str, int]:
        """Return the counts that are stored with the tree."""
        return count(tree, examples)

    @property
    def environment_seed(self) -> int:
        """Seed that the tree's environments are reset with."""
        return self.settings.seed


@register(f"{RECORD}episode")
class RecordedEpisodeLoop(RecordingLoop, EpisodeLoop):
    """Plays plain attempts and keeps them."""


@register(f"{RECORD}explore")
class RecordedExploreLoop(RecordingLoop, ExploreLoop):
    """Grows exploration trees and keeps them."""


@register(f"{RECORD}given")
class RecordedGivenLoop(RecordingLoop):
    """Plays a plain attempt that goes on from a given history, and keeps it."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> list[AgentLoopOutput]:
        """Play, and return one empty output, also for unscored attempts."""
        self._row, self._history = kwargs, await self._find(kwargs["extra_info"])
        history = self._history
        # Two histories of a task must differ in their requests' ids and seeds.
        played_for = f"{describe_row(kwargs)}, history {history.key}"
        explorer, _ = self.explorer(history.task, sampling_params, played_for)
        tree = ExplorationTree(history.task, history.steps)
        tree.add(await explorer.attempt(history.task, given=history))
        self.finished(tree, [])
        (attempt,) = tree.attempts
        if not attempt.outcome.scored:
            logger.warning("task %r: unscored attempt, %s: %s", tree.task.key, attempt.outcome.value, attempt.error)
        return [self.empty_output()]

    def counts(self, tree: ExplorationTree, examples: list[Example]) -> dict[str, int]:
        """Add what the attempt did in the turn after the given history."""
        return super().counts(tree, examples) | count_after_given(tree)

    @property
    def environment_seed(self) -> int:
        """Seed of the recording, which the replay needs."""
        return self._history.seed

    async def _find(self, extra_info: Mapping[str, Any]) -> GivenHistory:
        """Return the row's history in the tokens of this model."""
        folder = str(self.settings.evaluation.given)
        histories = await asyncio.to_thread(self.worker.given_histories, folder)
        return in_own_tokens(histories[extra_info[HISTORY_FIELD]], self.chat)


class EvaluationDataset(TaskDataset):
    """The tasks, or given histories, with fewer than `data.attempts` scored attempts in `data.store`.

    Each comes with the missing number.
    """

    def _read_files_and_tokenize(self) -> None:
        rows = history_rows(Path(self.config.given)) if self.config.get("given") else self._task_rows()
        missing = missing_attempts(read_evaluation(self.config.store), rows, self.config.attempts)
        # A row's own number of attempts overrides val_kwargs.n in verl (trainer_base.py, agent_loop_tq.py).
        self.dataframe = datasets.Dataset.from_list(
            [rows[key] | {"__rollout_n__": number} for key, number in missing.items()]
        )

    def _task_rows(self) -> dict[str, dict[str, Any]]:
        super()._read_files_and_tokenize()
        return {read_task(row["extra_info"]).key: row for row in self.dataframe}
