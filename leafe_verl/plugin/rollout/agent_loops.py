"""From a data set's row to trained tokens: the exploring loop, and the plain episode loop beside it."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import os
from typing import Any
from uuid import uuid4

from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput, register
from verl.utils.tokenizer.continuous_token import ContinuousTokenBuilder
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

from leafe_verl.core import Example, ExplorationTree, Explorer, Outcome, Task, TokenSequence
from leafe_verl.core.playbook import Playbook, look_back
from leafe_verl.core.sft_examples import PHASES, build_examples, build_sequences
from leafe_verl.core.shared_prefix import sort_by_shared_prefix
from leafe_verl.core.statistics import count
from leafe_verl.environments import make
from leafe_verl.plugin.rollout.collected import collected_trees, fingerprint
from leafe_verl.plugin.rollout.dataset import task_of
from leafe_verl.plugin.rollout.playbook_file import read_playbook
from leafe_verl.plugin.rollout.server_policy import ServerPolicy
from leafe_verl.plugin.settings import RunSettings
from leafe_verl.plugin.training.tracking import tracks_branches
from leafe_verl.trees import Provenance
from leafe_verl.trees.telling import telling_branch

logger = logging.getLogger(__name__)

EXPLORE = "explore"
REPLAY = "replay"
EPISODE = "episode"
ADAPT = "adapt"
COUNTS_FIELD = "leafe_counts"
"""Field of a record's `extra_fields`: the counts of one tree. An exploring loop's record with counts is no example."""
UNKEPT = "trees_unkept"
"""Count of the trees that the disk did not take, and that are therefore not trained on."""
DELTA_FIELD = "leafe_delta"
"""Field of a record's `extra_fields`: what ACE learned from an attempt, a `Delta` as a mapping."""
BRANCH_FIELD = "leafe_branch"
"""Field of a tree's `extra_fields`: its most telling branch, a `TellingBranch` as a mapping, where one is tracked."""
KIND_FIELD = "leafe_kind"
"""Field of a record's `extra_fields`: which loss an example belongs to."""
ORIGIN_FIELD = "leafe_origin"
"""Field of a record's `extra_fields`: [task key, number of the tree, place] of an example. Trees finish in any order;
examples are laid out in this one, in which those of a phase that begin alike are adjacent."""
SHARED_FIELD = "leafe_shared"
"""Field of a record's `extra_fields`: how many first tokens an example shares with the one before it."""


class FirstOnly(logging.Filter):
    """Lets a message through once a process: verl warns of a model's type for every attempt."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = message not in self._seen
        self._seen.add(message)
        return new


logging.getLogger(create_continuous_token_builder.__module__).addFilter(FirstOnly())


@functools.cache
def environment_slots(number: int) -> asyncio.Semaphore:
    """The worker process's bound on environment calls at once."""
    return asyncio.Semaphore(number)


@functools.lru_cache(maxsize=8)
def stop_signal(step: int) -> asyncio.Event:
    """The worker process's signal that training step `step` waits no longer for its trees."""
    return asyncio.Event()


def chatml_family(chosen: ContinuousTokenBuilder, chat_template: str) -> str | None:
    """Family of a model whose turns are ChatML and whose type verl does not know, as SmolLM2's; None: verl's choice.

    verl chooses its default builder for unknown types, which loses the line break after the end-of-turn token.
    """
    unknown = type(chosen) is ContinuousTokenBuilder
    return "qwen" if unknown and "<|im_start|>" in chat_template else None


def _played_for(row: dict[str, Any]) -> str:
    """The step and the session of a row that verl has handed to an agent loop."""
    return f"step {int(row['global_steps'])}, session {row['session_id']}"


class TaskLoop(AgentLoopBase):
    """What both loops share: settings, the policy, and the form of their outputs."""

    def __init__(self, *args: Any, hf_model_type: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, hf_model_type=hf_model_type, **kwargs)
        self.settings = RunSettings.from_mapping(OmegaConf.to_container(self.config.leafe, resolve=True))
        inferred = chatml_family(self.continuous_token_builder, str(self.tokenizer.chat_template))
        if family := self.settings.generation.chat_family or inferred:
            self.continuous_token_builder = create_continuous_token_builder(
                self.tokenizer,
                model_family=family,
                hf_model_type=hf_model_type,
                chat_template_kwargs=self.apply_chat_template_kwargs,
            )

    def finished(self, tree: ExplorationTree, examples: list[Example]) -> None:
        """Hook: a tree, of one attempt or of many, has come to its end, whether or not it is scored."""

    def explorer(
        self, task: Task, sampling_params: dict[str, Any], played_for: str, stop: asyncio.Event | None = None
    ) -> Explorer:
        """`played_for` tells this tree from others of its task."""
        rollout, environment = self.rollout_config, self.settings.environment
        policy = ServerPolicy(
            client=self.server_manager,
            builder=self.continuous_token_builder,
            sampling_params=sampling_params,
            window=rollout.max_model_len or rollout.prompt_length + rollout.response_length,
            request_id=uuid4().hex,
            generation=self.settings.generation,
            reflection=self.settings.reflection,
            grammar=self.settings.reflection.grammar and rollout.name == "vllm",
            seed=f"{rollout.seed} {played_for} {task.key}" if rollout.full_determinism else None,
        )
        make_environment = functools.partial(make, task.environment, **environment.options)
        slots = environment_slots(environment.concurrency or os.cpu_count() or 1)
        stop = stop or asyncio.Event()
        return Explorer(make_environment, policy, self.settings, slots, self.playbook().render(), stop)

    def playbook(self) -> Playbook:
        return read_playbook(self.settings.playbook.path)

    def output(
        self,
        sequence: TokenSequence,
        policy: ServerPolicy | None,
        reward: float,
        num_turns: int,
        info: dict[str, float],
        **extra: Any,
    ) -> AgentLoopOutput:
        """One record for TransferQueue: prompt up to the first trained token, response from there.

        No `policy` sampled what comes from the experience store.
        """
        split = sequence.prompt_length
        versions = (policy.weight_versions if policy else None) or {0}
        return AgentLoopOutput(
            prompt_ids=list(sequence.token_ids[:split]),
            response_ids=list(sequence.token_ids[split:]),
            response_mask=list(sequence.mask[split:]),
            response_logprobs=list(sequence.log_probs[split:]) if self.rollout_config.calculate_log_probs else None,
            reward_score=reward,
            num_turns=num_turns,
            metrics=AgentLoopMetrics(generate_sequences=policy.seconds if policy else 0.0),
            extra_fields={
                "reward_extra_info": info,
                "min_global_steps": min(versions),
                "max_global_steps": max(versions),
                **extra,
            },
        )


@register(EPISODE)
class EpisodeLoop(TaskLoop):
    """One plain attempt: no reflection, no rollback, no experience. GRPO's rollout and everyone's validation."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> list[AgentLoopOutput]:
        """Return one output, or none for an unscored attempt: a broken environment is not a zero reward.

        Where `leafe.context.window` cuts the history, one output for each prompt that begins anew. verl gives all of
        them the reward of the last, whose advantage within its GRPO group it hands to the others (v1/utils.py,
        compute_advantage_for_multi_trajectories), so that an attempt weighs the same in its group's mean.
        """
        task = task_of(kwargs["extra_info"])
        explorer = self.explorer(task, sampling_params, _played_for(kwargs))
        tree = ExplorationTree(task)
        tree.add(await explorer.attempt(task))
        self.finished(tree, [])
        (attempt,) = tree.attempts
        if not attempt.outcome.scored:
            logger.warning("task %r: unscored attempt, %s: %s", task.key, attempt.outcome.value, attempt.error)
            return []
        success = float(attempt.outcome is Outcome.SUCCESS)
        *earlier, last = [sequence for _, sequence in build_sequences(attempt.steps)]
        info = {"acc": success, "steps": float(len(attempt.steps))}
        played = (explorer.policy, tree.total_return(0), 2 * len(attempt.steps), info)
        extra = {COUNTS_FIELD: count(tree, []), **await self.learned(tree, explorer.policy)}
        return [*(self.output(sequence, *played) for sequence in earlier), self.output(last, *played, **extra)]

    async def learned(self, tree: ExplorationTree, policy: ServerPolicy) -> dict[str, Any]:
        """What a loop adds to its record once the attempt is over."""
        return {}


@register(ADAPT)
class AdaptLoop(EpisodeLoop):
    """ACE's rollout: one plain attempt with the playbook in its prompt, then a look back at it."""

    async def learned(self, tree: ExplorationTree, policy: ServerPolicy) -> dict[str, Any]:
        delta = await look_back(policy, tree, self.playbook(), self.settings.playbook)
        return {DELTA_FIELD: dataclasses.asdict(delta)}


@register(EXPLORE)
class ExploreLoop(TaskLoop):
    """LEAFE's rollout: grow one exploration tree from `rollout.n` roots, and return what it teaches."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> list[AgentLoopOutput]:
        """Return a record with the tree's counts, then one record for each SFT example.

        A tree that this training step had collected before its run was killed is not collected again.
        """
        task, step = task_of(kwargs["extra_info"]), int(kwargs["global_steps"])
        if found := await asyncio.to_thread(self._found, task, step):
            return self.records(found, None)
        explorer = self.explorer(task, sampling_params, _played_for(kwargs), stop_signal(step))
        tree = await explorer.explore(task, roots=self.rollout_config.n)
        try:
            await asyncio.to_thread(self._keep, tree, step, explorer.policy)  # the disk's time is not the other trees'
        except OSError as error:
            logger.error("%s", error)
            return [self._nothing(explorer.policy, 0.0, {UNKEPT: 1})]
        return self.records(tree, explorer.policy)

    def records(self, tree: ExplorationTree, policy: ServerPolicy | None, number: int = 0) -> list[AgentLoopOutput]:
        """What a tree teaches; `number` tells trees of one task apart, no `policy` that it comes from the store."""
        examples = build_examples(tree, self.settings.distillation, self.settings.seed)
        self.finished(tree, examples)
        origin = [tree.task.key, number]
        records = [self._tree_record(tree, examples, policy)]
        for kinds in PHASES.values():
            mine = [example for example in examples if example.kind in kinds]
            for place, (index, shared) in enumerate(sort_by_shared_prefix([each.sequence.token_ids for each in mine])):
                extra = {ORIGIN_FIELD: [*origin, place], SHARED_FIELD: shared}
                records.append(self._example_record(tree, mine[index], policy, extra))
        return records

    def _found(self, task: Task, step: int) -> ExplorationTree | None:
        store = self.settings.collection.store
        return collected_trees(store).find(step, task.key) if store else None

    def _keep(self, tree: ExplorationTree, step: int, policy: ServerPolicy) -> None:
        """Make the tree durable before training can consume it."""
        if not (store := self.settings.collection.store):
            return
        provenance = Provenance(
            run=self.config.trainer.experiment_name,
            step=step,
            seed=self.settings.seed,
            model=self.config.actor_rollout_ref.model.path,
            tokenizer=fingerprint(str(self.tokenizer.chat_template), len(self.tokenizer)),
            weight_version_min=min(policy.weight_versions, default=None),
            weight_version_max=max(policy.weight_versions, default=None),
        )
        collected_trees(store).keep(tree, provenance)

    def _tree_record(
        self, tree: ExplorationTree, examples: list[Example], policy: ServerPolicy | None
    ) -> AgentLoopOutput:
        success = max((float(attempt.outcome is Outcome.SUCCESS) for attempt in tree.attempts), default=0.0)
        kept = {UNKEPT: 0, "trees_from_store": int(policy is None)}
        told = telling_branch(tree) if tracks_branches(self.config) else None
        extra = {BRANCH_FIELD: told.as_mapping()} if told else {}
        return self._nothing(policy, success, count(tree, examples) | kept, **extra)

    def _nothing(
        self, policy: ServerPolicy | None, success: float, counts: dict[str, int], **extra: Any
    ) -> AgentLoopOutput:
        """A record of counts, without a token to train on."""
        token = self.tokenizer.eos_token_id
        nothing = TokenSequence((token, token), (0, 0), (0.0, 0.0), prompt_length=1)
        return self.output(nothing, policy, success, 0, {"acc": success}, **{COUNTS_FIELD: counts}, **extra)

    def _example_record(
        self, tree: ExplorationTree, example: Example, policy: ServerPolicy | None, extra: dict[str, Any]
    ) -> AgentLoopOutput:
        success = float(tree.attempts[example.attempt].outcome is Outcome.SUCCESS)
        reward, turns = tree.total_return(example.attempt), 2 * len(tree.path(example.attempt))
        kind = {KIND_FIELD: example.kind.value}
        return self.output(example.sequence, policy, reward, turns, {"acc": success}, **kind, **extra)


@register(REPLAY)
class ReplayLoop(ExploreLoop):
    """Stage 2 alone: what the experience store holds of a task takes the place of exploring it."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> list[AgentLoopOutput]:
        """Return the records of all trees of the task; none for a task that the store has no tree of."""
        store = self.settings.collection.store
        task = task_of(kwargs["extra_info"])
        trees = await asyncio.to_thread(lambda: collected_trees(str(store)).of_task(task.key))
        return [record for number, tree in enumerate(trees) for record in self.records(tree, None, number)]
