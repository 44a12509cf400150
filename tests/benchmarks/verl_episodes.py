"""The alternative of exploring.py: verl's own multi-turn episodes on an environment of ours, rollout alone.

Loaded by verl in every process, as VERL_USE_EXTERNAL_MODULES names it. Manager, rollout worker, agent loop and replay
buffer are verl's; of ours are the environment and what verl lacks without an accelerator.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register
from verl.experimental.agent_loop.tool_agent_loop import AgentData, AgentState, ToolAgentLoop
from verl.experimental.agent_loop.tool_parser import FunctionCall, ToolParser
from verl.tools.schemas import ToolResponse
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.workers.rollout.replica import TokenOutput

from leafe_verl.environments import make
from leafe_verl.plugin.rollout.dataset import read_task
from leafe_verl.plugin.rollout.task_loop import TaskLoop
from leafe_verl.plugin.training.advantage_free_trainer import AdvantageFreeTrainer

READ = ("prompt_tokens", "cached_tokens")
"""Tokens of the prompts of an episode, and those of them that the prefix cache held."""


class AnswerAsCall(ToolParser):
    """Every answer of the model, whole, is a call of the one tool: a step of the environment."""

    async def extract_tool_calls(self, responses_ids: list[int], tools: Any = None) -> tuple[str, list[FunctionCall]]:
        text = self.tokenizer.decode(responses_ids, skip_special_tokens=True)
        return text, [FunctionCall(name="step", arguments=json.dumps({"answer": text}))]


class ReadingCounted:
    """The client of the inference servers that a loop has from verl, counting the prompts that it sends."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.prompt_tokens = self.cached_tokens = 0

    async def generate(self, request_id: str, *, prompt_ids: list[int], **options: Any) -> TokenOutput:
        output: TokenOutput = await self._client.generate(request_id, prompt_ids=prompt_ids, **options)
        self.prompt_tokens += len(prompt_ids)
        self.cached_tokens += output.extra_fields.get("num_cached_tokens") or 0
        return output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


@register("verl_episode")
class VerlEpisode(TaskLoop, ToolAgentLoop):
    """verl's ToolAgentLoop. From TaskLoop it has the family of the chat template, which verl does not know either."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tool_parser = AnswerAsCall(self.tokenizer)
        self.reading = self.server_manager = ReadingCounted(self.server_manager)

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        task = read_task(kwargs["extra_info"])
        self.environment = make(task.environment, **self.settings.environment.options)
        self.environment.horizon = self.settings.environment.horizon or self.environment.horizon
        self.num_steps = 0
        observation, _ = await asyncio.to_thread(self.environment.reset, task, 0)
        roles = (("system", self.environment.system_prompt), ("user", observation))
        kwargs["raw_prompt"] = [{"role": role, "content": content} for role, content in roles if content]
        limited = {**sampling_params, "max_tokens": self.settings.generation.max_tokens}
        output = await super().run(limited, **kwargs)
        await asyncio.to_thread(self.environment.close)
        output.reward_score = float(bool(self.step.info.get("success")))
        output.extra_fields |= {"reward_extra_info": {}, **{name: getattr(self.reading, name) for name in READ}}
        return output

    async def _call_tool(
        self, tool_call: FunctionCall, tools_kwargs: dict[str, Any], agent_data: AgentData
    ) -> tuple[ToolResponse, float, dict]:
        self.step = await asyncio.to_thread(self.environment.step, json.loads(tool_call.arguments)["answer"])
        self.num_steps += 1
        return ToolResponse(text=self.step.observation), self.step.reward, {}

    async def _handle_processing_tools_state(self, agent_data: AgentData) -> AgentState:
        state = await super()._handle_processing_tools_state(agent_data)
        over = self.step.terminated or self.step.truncated or self.num_steps >= self.environment.horizon
        return AgentState.TERMINATED if over else state


@register_trainer("verl_episodes")
class VerlEpisodes(AdvantageFreeTrainer):
    """Collects, counts the tokens, and learns nothing."""

    def _attach(self) -> None:
        """The replay buffer and the workers are verl's."""

    def _balance_batch(self, batch: KVBatchMeta, metrics: dict, **kwargs: Any) -> KVBatchMeta:
        select = ["response_mask", "extra_fields"]
        fields = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=select)
        metrics["leafe/sampled_tokens"] = int(sum(mask.sum() for mask in fields["response_mask"].unbind()))
        for name in READ:
            metrics[f"leafe/{name}/explore"] = sum(each[name] for each in fields["extra_fields"])
        return batch

    def _update_actor(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        return batch
