"""verl's FSDP engine, extended to train on prefix trees, for which it computes logits of trained tokens only."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict
from torch.nn.functional import pad
from transformers import PretrainedConfig, PreTrainedModel
from verl.utils.torch_functional import logprobs_from_logits
from verl.utils.ulysses import gather_outputs_and_unpad, get_ulysses_sequence_parallel_rank
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from leafe_verl.plugin.training.prefix_attention import attending_within_trees, tree_inputs, unsupported_reason
from leafe_verl.plugin.wire import PARENTS

MODEL_TYPE = "language_model_of_prefix_trees"
"""Name of this engine in verl's registry."""
BACKENDS, DEVICES = ["fsdp", "fsdp2"], ["cpu", "cuda"]


@EngineRegistry.register(model_type=MODEL_TYPE, backend=BACKENDS, device=DEVICES)
class PrefixTreeEngine(FSDPEngineWithLMHead):  # type: ignore[misc]  # verl is Any to mypy
    """Computes batches with `PARENTS` as prefix trees, one row per micro-batch, and all other batches as verl does."""

    unsupported_reason: str | None = None
    """The reason why this model or its configuration cannot train on prefix trees; None if it can."""

    def __init__(self, model_config: Any, *args: Any, **kwargs: Any) -> None:
        # MODEL_TYPE made the registry choose this engine. verl's code expects the usual name from here on.
        model_config.model_type = "language_model"
        super().__init__(model_config, *args, **kwargs)

    def _build_module(self) -> PreTrainedModel:
        module: PreTrainedModel = super()._build_module()
        self._tree_config = module.config
        self.unsupported_reason = self._unsupported_setting(module.config) or unsupported_reason(module)
        if self.unsupported_reason is None and "logits_to_keep" not in inspect.signature(module.forward).parameters:
            self.unsupported_reason = f"{type(module).__name__} does not take logits_to_keep"
        return module

    def _unsupported_setting(self, config: PretrainedConfig) -> str | None:
        ranks = self.ulysses_sequence_parallel_size
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        if heads % ranks:
            return (
                f"{heads} key-value heads cannot be divided among the {ranks} ranks of "
                "actor_rollout_ref.actor.ulysses_sequence_parallel_size"
            )
        if self.model_config.use_fused_kernels:
            return "actor_rollout_ref.model.use_fused_kernels is true"
        return None

    def forward_backward_batch(
        self, data: TensorDict, loss_function: Callable[..., Any], forward_only: bool = False
    ) -> Any:
        if PARENTS not in data:
            return super().forward_backward_batch(data, loss_function, forward_only)
        with attending_within_trees(self._tree_config):  # also in the backward pass, where checkpointing recomputes
            return super().forward_backward_batch(data, loss_function, forward_only)

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the model's inputs, and `targets`: the places of the trained tokens that this rank has logits for."""
        if PARENTS not in micro_batch:
            usual: tuple[dict[str, Any], dict[str, Any]] = super().prepare_model_inputs(micro_batch)
            return usual
        token_ids, parents = micro_batch["input_ids"].values(), micro_batch[PARENTS].values()
        targets = micro_batch["loss_mask"].values().nonzero().reshape(-1)
        kept = parents[targets].clamp(min=0)
        # Every rank of a sequence gets as many tokens; those added are trees of their own.
        added = -len(token_ids) % self.ulysses_sequence_parallel_size
        inputs = tree_inputs([*parents.tolist(), *[-1] * added], token_ids.device)
        part = self._part(len(token_ids) + added)
        here = (kept >= part.start) & (kept < part.stop)
        targets, kept = targets[here], kept[here] - part.start
        if not len(targets):  # a rank that trains nothing must still take part in the backward pass
            targets = kept = targets.new_zeros(1)
        model_inputs = {
            "input_ids": pad(token_ids, (0, added))[part].unsqueeze(0),
            "attention_mask": None,
            "position_ids": inputs.position_ids[part].unsqueeze(0),
            "logits_to_keep": kept,
            "layout": inputs.layout,
        }
        return model_inputs, {"targets": targets}

    def _part(self, tokens: int) -> slice:
        """Return the tokens that this rank computes: all of them, without sequence parallelism."""
        length = tokens // self.ulysses_sequence_parallel_size
        rank = get_ulysses_sequence_parallel_rank(self.ulysses_parallel_group)
        return slice(rank * length, (rank + 1) * length)

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, torch.Tensor]:
        """Return `log_probs`, nested (rows, tokens), which count for trained tokens alone."""
        if PARENTS not in micro_batch:
            usual: dict[str, torch.Tensor] = super().prepare_model_outputs(
                output, output_args, micro_batch, logits_processor_func
            )
            return usual
        token_ids, targets = micro_batch["input_ids"], output_args["targets"]
        log_probs = logprobs_from_logits(logits=output.logits.squeeze(0), labels=token_ids.values()[targets])
        spread = log_probs.new_zeros(len(token_ids.values())).index_put((targets,), log_probs)
        if self.use_ulysses_sp:  # each rank has those of its own part, and all compute the whole loss
            spread = gather_outputs_and_unpad(spread.unsqueeze(0), gather_dim=0).sum(dim=0)
        return {"log_probs": torch.nested.nested_tensor_from_jagged(spread, token_ids.offsets())}
