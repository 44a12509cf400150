"""The SFT trainer role: verl's FSDP engine, checkpointing and weight transfer, with LEAFE's loss."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from tqdm import tqdm
from verl.single_controller.base.decorator import Dispatch, register
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_name, get_torch_device
from verl.workers.config import TrainingWorkerConfig
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from leafe_verl.activity import ActivityFile
from leafe_verl.plugin.cpu.platform import prepare_engine
from leafe_verl.plugin.training.losses import distillation_loss
from leafe_verl.plugin.training.preference import pair_margins, sequence_log_probs
from leafe_verl.plugin.training.prefix_attention import OFF
from leafe_verl.plugin.training.prefix_batch import (
    TrainedExample,
    in_shared_prefix_order,
    trained_examples,
    tree_batch,
)
from leafe_verl.plugin.training.prefix_engine import BACKENDS, DEVICES, MODEL_TYPE, PrefixTreeEngine
from leafe_verl.plugin.training.prefix_tree import cut_at, cut_into
from leafe_verl.plugin.training.teacher import ONE_BY_ONE, ask_teachers, count_taught
from leafe_verl.plugin.wire import (
    MARGIN,
    REFERENCE,
    SIDE,
    TERM,
    DistillationInfo,
    set_taught_tokens,
    set_term_tokens,
)

logger = logging.getLogger(__name__)


class PolicyTrainingWorker(TrainingWorker):  # type: ignore[misc]  # verl is Any to mypy
    """verl's training worker, which without a GPU gives back what it has freed after each batch.

    glibc hardly reuses blocks of ever other sizes: the trainer of the embedded model grew by 2 GiB a minute.
    """

    def train_batch(self, data: TensorDict) -> TensorDict:
        """Take one optimiser step on a mini-batch. See `TrainingWorker.train_batch`."""
        output = super().train_batch(data)
        self._give_back()
        return output

    def infer_batch(self, data: TensorDict) -> TensorDict:
        """Compute log-probabilities. See `TrainingWorker.infer_batch`."""
        output = super().infer_batch(data)
        self._give_back()
        return output

    def _give_back(self) -> None:
        if self.device_name == "cpu":
            get_torch_device().empty_cache()


class SFTTrainingWorker(PolicyTrainingWorker):
    """The training worker, with what our losses need.

    Before a phase's first optimiser step it takes the reference log-probabilities of DPO, or asks the teachers of `kl`.
    Before each step it counts the tokens of each loss term over all ranks, and merges examples that begin alike. The
    learning rate's schedule goes on once in a training step, or, where there is only one, with each optimiser step.
    """

    _bar: tqdm | None = None
    _activity: ActivityFile | None = None
    _warned = False

    def __init__(self, config: TrainingWorkerConfig) -> None:
        if config.engine_config.strategy in BACKENDS and get_device_name() in DEVICES:
            config = dataclasses.replace(config, model_type=MODEL_TYPE)
        super().__init__(config)

    def train_mini_batch(self, data: TensorDict) -> TensorDict:
        """Train on all mini-batches of a phase. See `TrainingWorker.train_mini_batch`."""
        info = DistillationInfo.from_batch(data)
        if info.scheduled_updates:
            self._schedule(info.scheduled_updates)
        if info.pairs:
            data[REFERENCE] = sequence_log_probs(self, data, loaded=False)
        if info.teachers:
            self.require_teachers()
            ask_teachers(self.engine, data, self._cut)
        return super().train_mini_batch(data)

    def _schedule(self, updates: int) -> None:
        """Let the learning rate's schedule be over so many optimiser steps, which nobody knew when verl made it."""
        settings = self.engine.optimizer_config
        if settings.total_training_steps != updates:
            settings.total_training_steps = updates
            # The scheduler itself stays, since it is what checkpoints hold.
            self.engine.lr_scheduler.lr_lambdas = self.engine._build_lr_scheduler(self.engine.optimizer).lr_lambdas

    def require_teachers(self) -> None:
        """Raise ValueError if the engine cannot compute what teachers say."""
        if reason := self._unsupported():
            raise ValueError(
                f"a loss of leafe.distillation is 'kl', and {reason}; expected a model that computes prefix trees "
                "in verl's FSDP engine without fused kernels, or loss, recovery_loss and hold_loss of nll"
            )

    def train_batch(self, data: TensorDict) -> TensorDict:
        """Take one optimiser step on a mini-batch. See `TrainingWorker.train_batch`."""
        tokens = torch.stack([row.sum() for row in data["response_mask"].unbind()]).float()
        terms = data[TERM].reshape(-1).long().to(tokens.device)
        info = DistillationInfo.from_batch(data)
        if info.pairs:
            data[MARGIN] = pair_margins(self, data)
            # The term is a mean over pairs: each of a pair's two rows counts for one half.
            tokens = torch.where(data[SIDE].reshape(-1).to(tokens.device) == 0, tokens, 0.5)
        sums = torch.zeros(len(info.weights) + 1, device=tokens.device)
        sums = sums.index_add(0, terms, tokens).to(self.device_name)
        sums[-1] = count_taught(data)
        torch.distributed.all_reduce(sums, group=self.engine.get_data_parallel_group())
        *term_tokens, taught_tokens = sums.tolist()
        set_term_tokens(data, tuple(term_tokens))
        set_taught_tokens(data, taught_tokens)
        # verl goes on in the schedule at the end of each phase (TrainingWorker.train_mini_batch).
        ends_step = info.last and tu.get_non_tensor_data(data, "update_lr_scheduler", False)
        tu.assign_non_tensor(data, update_lr_scheduler=bool(info.scheduled_updates or ends_step))
        merges = info.share_prefixes and self._can_share()
        output = super().train_batch(self._merged(data, len(info.weights)) if merges else data)
        if self.rank == 0:
            self._show_progress(info)
        return output

    def _unsupported(self) -> str | None:
        """Return why the engine cannot compute prefix trees; None if it can."""
        if isinstance(self.engine, PrefixTreeEngine):
            return self.engine.unsupported_reason
        return f"the engine is a {type(self.engine).__name__}"

    def _can_share(self) -> bool:
        """Return whether the engine can train on prefix trees, and warn once if it cannot."""
        reason = self._unsupported()
        if reason and self.rank == 0 and not self._warned:
            logger.warning("prefixes are not shared, so examples are trained on one by one: %s; %s", reason, OFF)
            self._warned = True
        return reason is None

    def _cut(self, examples: list[TrainedExample]) -> list[Sequence[TrainedExample]]:
        """Divide this rank's examples into prefix trees of similar sizes, the same number of them on every rank."""
        examples, shared = in_shared_prefix_order(examples)
        lengths = [len(example.token_ids) for example in examples]
        parts = torch.tensor(self._num_trees(lengths, shared), device=self.device_name)
        group = self.engine.get_data_parallel_group()
        torch.distributed.all_reduce(parts, op=torch.distributed.ReduceOp.MAX, group=group)
        return [examples[piece.start : piece.stop] for piece in cut_into(lengths, shared, int(parts))]

    def _merged(self, data: TensorDict, terms: int) -> TensorDict:
        """Return the examples as prefix trees."""
        merged = tree_batch(self._cut(trained_examples(data)), terms, data)
        # Without token counts verl reports no FLOPs utilisation. With them it would count examples one by one.
        return tu.assign_non_tensor(merged, **ONE_BY_ONE, global_token_num=None)

    def _num_trees(self, lengths: list[int], shared: list[int]) -> int:
        """Return the number of prefix trees, and thus of micro-batches, that this rank needs."""
        config = self.engine_config
        if not config.use_dynamic_bsz:
            return max(math.ceil(len(lengths) / int(config.micro_batch_size_per_gpu)), 1)
        # As verl counts (prepare_micro_batches in engine/utils.py): the ranks of a sequence have a part of it each.
        most = config.max_token_len_per_gpu * config.ulysses_sequence_parallel_size
        if (longest := max(lengths, default=0)) > most:
            raise ValueError(
                f"an example has {longest} tokens, but a micro-batch holds at most {most}; "
                "raise actor_rollout_ref.actor.ppo_max_token_len_per_gpu"
            )
        return len(cut_at(lengths, shared, most))

    def _show_progress(self, info: DistillationInfo) -> None:
        if self._bar is None:
            self._bar = tqdm(total=info.updates, desc="distilling", unit="update", mininterval=5.0)
            self._activity = ActivityFile(Path(info.run_dir)) if info.run_dir else None
        self._bar.update(1)
        if self._activity is not None:
            self._activity.advance(self._bar.n)
        if self._bar.n == info.updates:
            self._bar.close()
            self._bar = None


class PolicyWorker(ActorRolloutRefWorker):  # type: ignore[misc]  # verl is Any to mypy
    """verl's hybrid worker, which can also train without an accelerator and reach restarted inference servers."""

    actor_worker_cls = PolicyTrainingWorker
    _starts_synced = True
    """Whether an inference server starts with the base weights of a model with LoRA, or gets them by the first sync."""

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)  # type: ignore[untyped-decorator]
    def init_model(self) -> None:
        """Prepare this process for the CPU where needed, then build the model as verl does."""
        prepare_engine()
        # Where flash-attn is missing, cuDNN would plan anew for each new length, and hardly any length comes twice.
        torch.backends.cuda.enable_cudnn_sdp(False)
        super().init_model()
        self._starts_synced = getattr(self, "base_sync_done", True)  # workers without a rollout do not have it

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)  # type: ignore[untyped-decorator]
    def forget_base_sync(self) -> None:
        """Let the next sync send all that the first one sent. All ranks must take part in it (engine_workers.py).

        With LoRA verl sends base weights once and then adapters alone, which a server that has been started again would
        add to random weights.
        """
        self.base_sync_done = self._starts_synced

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)  # type: ignore[untyped-decorator]
    def give_back_memory(self) -> None:
        """Give the device the memory that was freed, so that an inference server that starts finds its share of it."""
        get_torch_device().empty_cache()

    @register(dispatch_mode=Dispatch.ONE_TO_ALL, blocking=False)  # type: ignore[untyped-decorator]
    async def update_weights(self, global_steps: int | None = None, mode: str = "auto") -> Any:
        """Send the weights to this worker's inference server, which may have been restarted."""
        # Without what it keeps of a server of vLLM or SGLang, verl looks up the server by its name.
        for kept in ("server_handle", "_engine"):
            if hasattr(self.rollout, kept):
                setattr(self.rollout, kept, None)
        return await super().update_weights(global_steps=global_steps, mode=mode)


class SFTWorker(PolicyWorker):
    """The SFT trainer role, which is verl's PPO role with our training worker and loss."""

    actor_worker_cls = SFTTrainingWorker

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)  # type: ignore[untyped-decorator]
    def init_model(self) -> None:
        """Build the model and set the distillation loss."""
        super().init_model()
        self.actor.set_loss_fn(distillation_loss)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)  # type: ignore[untyped-decorator]
    def require_teachers(self) -> None:
        """Raise ValueError if the actor cannot compute what teachers say."""
        self.actor.require_teachers()
