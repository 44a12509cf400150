"""The custom rollout worker: explores for training, plays plain episodes for GRPO and, by default, for validation."""

from __future__ import annotations

from typing import Any

import ray
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from leafe_verl.plugin.agent_loops import EXPLORE
from leafe_verl.plugin.evaluation import validation_loop

# AgentLoopWorkerTQ is a Ray actor class, which cannot be subclassed; the class it was made from can.
_WorkerTQ = AgentLoopWorkerTQ.__ray_metadata__.modified_class


class RolloutWorker(_WorkerTQ):  # type: ignore[misc, valid-type]
    """Chooses the loop: `rollout.agent.default_agent_loop` in training, `leafe.evaluation.loop` in validation."""

    async def _run_prompt(self, prompt: dict, sampling_params: dict, trajectory: dict, trace: bool = False) -> None:
        if trajectory["validate"]:
            prompt["agent_name"] = validation_loop(self.config.leafe.evaluation)
        elif prompt["agent_name"] == EXPLORE:
            prompt["__rollout_n__"] = 1  # one tree a task; its number of roots is rollout.n
        await super()._run_prompt(prompt, sampling_params, trajectory, trace)


class RolloutManager(AgentLoopManagerTQ):
    """verl's manager, with our worker."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(RolloutWorker)
