"""The base class of our agent loops: it reads the settings, makes the policy and builds outputs for verl."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import os
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from omegaconf import DictConfig
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput
from verl.utils.tokenizer.continuous_token import ContinuousTokenBuilder
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

from leafe_verl.core import Example, ExplorationTree, Explorer, Task, TokenSequence
from leafe_verl.core.playbook import Playbook
from leafe_verl.environments import make
from leafe_verl.environments.code_environment import answers_with_code
from leafe_verl.environments.fences import PAUSES, find_code_end
from leafe_verl.environments.tool_calls import CallReader, find_calls
from leafe_verl.plugin.rollout.chat_format import ChatFormat, ask_tokenizer
from leafe_verl.plugin.rollout.engine_requests import ENGINES
from leafe_verl.plugin.rollout.inference_servers import RetryingClient
from leafe_verl.plugin.rollout.playbook_file import read_playbook, writes_playbook
from leafe_verl.plugin.rollout.server_policy import ServerPolicy
from leafe_verl.plugin.rollout.worker_state import WorkerState
from leafe_verl.plugin.settings import RunSettings


class TaskLoop(AgentLoopBase):  # type: ignore[misc]  # verl is Any to mypy
    """Base class of our agent loops. verl makes one loop for each prompt; subclasses implement `run`."""

    server_manager: RetryingClient
    continuous_token_builder: ContinuousTokenBuilder
    chat: ChatFormat

    def __init__(self, *args: Any, hf_model_type: str | None = None, **kwargs: Any) -> None:
        # Without a type verl makes its default builder. Those of a family raise for tokenizers that do not suit them,
        # and ours is chosen below.
        super().__init__(*args, hf_model_type=None, **kwargs)
        self.settings = RunSettings.from_config(self.config)
        self.chat = ask_tokenizer(
            self.tokenizer,
            family=self.settings.generation.chat_family,
            model_type=hf_model_type,
            template_options=self.apply_chat_template_kwargs,
        )
        self.continuous_token_builder = self.chat.builder

    @property
    def worker(self) -> WorkerState:
        """State that all loops of this process share. The rollout worker sets it on the client that each loop gets."""
        return self.server_manager.worker_state

    def finished(self, tree: ExplorationTree, examples: list[Example]) -> None:
        """Hook, called with every finished tree, scored or not, and with its examples."""

    def explorer(
        self, task: Task, sampling_params: dict[str, Any], played_for: str, stop: asyncio.Event | None = None
    ) -> tuple[Explorer, ServerPolicy]:
        """Return the explorer of one tree and its policy.

        Args:
            played_for: Distinguishes the tree from others of the same task; see `describe_row`.
            stop: Set once the tree is to be returned as it is; None if the tree is never cut short.
        """
        environment = self.settings.environment
        policy = self._policy(sampling_params, f"{played_for} {task.key}", task.environment)
        make_environment = functools.partial(make, task.environment, **environment.options)
        slots = self.worker.environment_slots(environment.concurrency or self._cores())
        stop = stop or asyncio.Event()
        return Explorer(make_environment, policy, self.settings, slots, self.playbook().render(), stop), policy

    def _cores(self) -> int:
        """Return this worker's part of its node's cores. verl spreads the workers over the nodes."""
        workers = math.ceil(int(self.rollout_config.agent.num_workers) / int(self.config.trainer.nnodes))
        return max(len(os.sched_getaffinity(0)) // workers, 1)

    def _policy(self, sampling_params: dict[str, Any], name: str, environment: str) -> ServerPolicy:
        rollout = self.rollout_config
        stops_at_fence = self.settings.generation.stop_at == "fence" and answers_with_code(environment)
        return ServerPolicy(
            client=self.server_manager,
            chat=self.chat,
            sampling_params=sampling_params,
            window=rollout.max_model_len or rollout.prompt_length + rollout.response_length,
            request_id=uuid4().hex,
            generation=self.settings.generation,
            reflection=self.settings.reflection,
            seed=f"{rollout.seed} {name}" if rollout.full_determinism else None,
            calls=self._calls(environment),
            find_end=find_code_end if stops_at_fence else None,
            pauses=PAUSES if stops_at_fence else (),
            engine=ENGINES[rollout.name],
            slots=self.worker.turn_slots(count_turn_slots(self.config)),
        )

    def _calls(self, environment: str) -> CallReader | None:
        """Return how the environment's actions call tools, if they do. Raises ChatRefused if the template has none."""
        calls = find_calls(environment, self.settings.environment.options)
        if calls is not None:
            self.chat.require_tools(calls.schemas)
        return calls

    def playbook(self) -> Playbook:
        """Return ACE's playbook as it is on disk now; an empty one for other methods."""
        return read_playbook(self.settings.playbook.path, begins_empty=writes_playbook(self.config))

    def output(
        self,
        sequence: TokenSequence,
        policy: ServerPolicy | None,
        reward: float,
        num_turns: int,
        info: Mapping[str, float | str],
        record: dict[str, Any] | None = None,
    ) -> AgentLoopOutput:
        """Return one row for TransferQueue. The response begins at the first trained token, the prompt ends before it.

        Args:
            policy: The policy that sampled the tokens; None if they come from a store.
            reward: Reward of the row.
            num_turns: Number of chat messages after the opening prompt.
            info: Numbers that verl averages in validation, such as `acc`, and texts, which it passes over.
            record: Entry for `extra_fields` that carries a record of `wire`; None for rows without one.
        """
        split = sequence.prompt_length
        versions = (policy.weight_versions if policy else None) or {0}
        steps = {"min_global_steps": min(versions), "max_global_steps": max(versions)}
        return AgentLoopOutput(
            prompt_ids=list(sequence.token_ids[:split]),
            response_ids=list(sequence.token_ids[split:]),
            response_mask=list(sequence.mask[split:]),
            response_logprobs=list(sequence.log_probs[split:]) if self.rollout_config.calculate_log_probs else None,
            reward_score=reward,
            num_turns=num_turns,
            metrics=AgentLoopMetrics(generate_sequences=policy.seconds if policy else 0.0),
            extra_fields={"reward_extra_info": dict(info), **steps, **(record or {})},
        )

    def empty_output(
        self,
        policy: ServerPolicy | None = None,
        reward: float = 0.0,
        info: Mapping[str, float | str] | None = None,
        record: dict[str, Any] | None = None,
    ) -> AgentLoopOutput:
        """Return a row without a token to train on. The arguments are those of `output`."""
        token = self.tokenizer.eos_token_id
        nothing = TokenSequence((token, token), (0, 0), (0.0, 0.0), prompt_length=1)
        return self.output(nothing, policy, reward, 0, info or {}, record)


def count_turn_slots(config: DictConfig) -> int:
    """Return how many turns one rollout worker may have sampled at the same time: its share of what the engines take.

    An engine queues what is beyond its `max_num_seqs`, and verl does not say when it begins with a request.
    """
    rollout, trainer = config.actor_rollout_ref.rollout, config.trainer
    devices = trainer.n_gpus_per_node * trainer.nnodes
    engines = devices // (rollout.tensor_model_parallel_size * rollout.pipeline_model_parallel_size)
    return int(math.ceil(max(engines, 1) * rollout.max_num_seqs / rollout.agent.num_workers))


def describe_row(row: dict[str, Any]) -> str:
    """Return a name for one playing of a row: its training step and verl's session."""
    return f"step {int(row['global_steps'])}, session {row['session_id']}"


class _FirstOnly(logging.Filter):
    """Lets each message pass once."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        # We ask verl for its default builder, and choose the one that is used ourselves.
        new = message not in self._seen and "model_type=None" not in message
        self._seen.add(message)
        return new


def warn_once_about_model_types() -> None:
    """Log each of verl's warnings about a model's type once in this process. verl logs them for every attempt."""
    logger = logging.getLogger(create_continuous_token_builder.__module__)
    if not any(isinstance(each, _FirstOnly) for each in logger.filters):
        logger.addFilter(_FirstOnly())
