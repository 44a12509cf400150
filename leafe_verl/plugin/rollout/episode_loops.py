"""Agent loops that play one plain attempt: for GRPO's rollout, ACE's rollout, and validation in every mode."""

from __future__ import annotations

import functools
import logging
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register

from leafe_verl.core import ExplorationTree
from leafe_verl.core.playbook import Delta, look_back
from leafe_verl.core.recovery_figures import plain_attempts
from leafe_verl.core.statistics import count
from leafe_verl.core.token_sequences import build_sequences
from leafe_verl.plugin.rollout.dataset import read_task
from leafe_verl.plugin.rollout.server_policy import ServerPolicy
from leafe_verl.plugin.rollout.task_loop import TaskLoop, describe_row
from leafe_verl.plugin.wire import TreeRecord, attempt_to_info

logger = logging.getLogger(__name__)

EPISODE = "episode"
ACE = "ace"


@register(EPISODE)
class EpisodeLoop(TaskLoop):
    """Plays one plain attempt, without reflection, rollback or experience."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> list[AgentLoopOutput]:
        """Return one output, or none for an unscored attempt, because a broken environment is not a zero reward.

        With `leafe.context.window` an attempt gives one output for each prompt that begins anew. verl assigns the
        reward of the last output to all of them. It computes the last one's advantage within its GRPO group and copies
        it to the others (v1/utils.py, compute_advantage_for_multi_trajectories), so that every attempt has the same
        weight in the mean of its group.
        """
        task = read_task(kwargs["extra_info"])
        explorer, policy = self.explorer(task, sampling_params, describe_row(kwargs))
        tree = ExplorationTree(task)
        tree.add(await explorer.attempt(task))
        self.finished(tree, [])
        (attempt,) = tree.attempts
        if not attempt.outcome.scored:
            logger.warning("task %r: unscored attempt, %s: %s", task.key, attempt.outcome.value, attempt.error)
            if kwargs["uid"] not in self.worker.validated:
                self.worker.unscored.update(count(tree, []))
            return []
        # GRPO learns from the probabilities of what was sampled; an end-of-turn token that we added has none.
        *earlier, last = [sequence for _, sequence in build_sequences(attempt.steps, added_tokens=False)]
        (plain,) = plain_attempts(tree)
        info: dict[str, float | str] = {"acc": float(plain.solved), "steps": float(plain.turns)}
        info["timed_out_actions"] = float(sum(step.timed_out for step in attempt.steps))
        info |= attempt_to_info(plain)
        record = TreeRecord(count(tree, []), task.key, (plain,), delta=await self.learned(tree, policy))
        output = functools.partial(
            self.output, policy=policy, reward=tree.total_return(0), num_turns=2 * plain.turns, info=info
        )
        return [*map(output, earlier), output(last, record=record.to_extra_fields())]

    async def learned(self, tree: ExplorationTree, policy: ServerPolicy) -> Delta | None:
        """Return what the policy learned from the finished attempt; None for methods that learn nothing here."""
        return None


@register(ACE)
class ACELoop(EpisodeLoop):
    """Plays one plain attempt with ACE's playbook in its prompt, then asks the policy to look back at it."""

    async def learned(self, tree: ExplorationTree, policy: ServerPolicy) -> Delta | None:
        """Return the advice that the policy drew from the attempt."""
        return await look_back(policy, tree, self.playbook(), self.settings.playbook)
