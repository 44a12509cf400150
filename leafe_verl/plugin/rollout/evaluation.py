"""Evaluating with verl: what a store (evaluation/attempts.py) still lacks is played, and every attempt kept there."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import datasets
from omegaconf import DictConfig
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput, register

from leafe_verl.core import Example, ExplorationTree
from leafe_verl.evaluation.attempts import AttemptWriter, missing_attempts, read_records, record_of
from leafe_verl.plugin.rollout.agent_loops import EpisodeLoop, ExploreLoop, TaskLoop
from leafe_verl.plugin.rollout.dataset import TaskDataset, task_of

RECORD = "record_"
"""Before a loop's name: the loop that also keeps what it played."""


def validation_loop(evaluation: DictConfig) -> str:
    """Return the name of the agent loop that `leafe.evaluation` asks for."""
    return f"{RECORD}{evaluation.loop}" if evaluation.store else str(evaluation.loop)


@functools.cache
def writer(store: str) -> AttemptWriter:
    """This process's own file in the store."""
    return AttemptWriter(Path(store))


class RecordingLoop(TaskLoop):
    """Before a loop in the order of inheritance: keeps its tree, and spares verl the tokens."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> list[AgentLoopOutput]:
        """Return one empty output, also for an unscored attempt: the store says what became of it."""
        await super().run(sampling_params, **kwargs)
        return [self._acknowledgement()]

    def finished(self, tree: ExplorationTree, examples: list[Example]) -> None:
        writer(self.settings.evaluation.store).append(record_of(tree, examples, self.settings.seed))

    def _acknowledgement(self) -> AgentLoopOutput:
        token = self.tokenizer.eos_token_id
        return AgentLoopOutput(
            prompt_ids=[token],
            response_ids=[token],
            response_mask=[0],
            response_logprobs=[0.0] if self.rollout_config.calculate_log_probs else None,
            reward_score=0.0,
            num_turns=0,
            metrics=AgentLoopMetrics(),
            extra_fields={"reward_extra_info": {}, "min_global_steps": 0, "max_global_steps": 0},
        )


@register(f"{RECORD}episode")
class RecordedEpisodeLoop(RecordingLoop, EpisodeLoop):
    """Plain attempts, kept."""


@register(f"{RECORD}explore")
class RecordedExploreLoop(RecordingLoop, ExploreLoop):
    """Exploration trees, kept."""


class EvaluationDataset(TaskDataset):
    """The tasks that lack scored attempts in `data.store`, each with as many as it lacks of `data.attempts`."""

    def _read_files_and_tokenize(self) -> None:
        super()._read_files_and_tokenize()
        rows = {task_of(row["extra_info"]).key: row for row in self.dataframe}
        missing = missing_attempts(read_records(Path(self.config.store)), rows, self.config.attempts)
        # A row's own number of attempts goes before val_kwargs.n: verl, trainer_base.py and agent_loop_tq.py.
        self.dataframe = datasets.Dataset.from_list(
            [rows[key] | {"__rollout_n__": number} for key, number in missing.items()]
        )
