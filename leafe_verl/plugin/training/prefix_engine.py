"""verl's FSDP engine, extended to train on prefix trees, for which it computes logits of trained tokens only."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available
from verl.utils import tensordict_utils as tu
from verl.utils.torch_functional import logprobs_from_logits
from verl.utils.ulysses import gather_outputs_and_unpad, get_ulysses_sequence_parallel_rank
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from leafe_verl.plugin.training.prefix_attention import attending_within_trees, tree_inputs, unsupported_reason
from leafe_verl.plugin.wire import PARENTS, TAUGHT_PLACES, TEACHER_IDS, TEACHER_MASS, TEACHER_PROBS, TOP_K

MODEL_TYPE = "language_model_of_prefix_trees"
"""Name of this engine in verl's registry."""
BACKENDS, DEVICES = ["fsdp", "fsdp2"], ["cpu", "cuda"]
TOKENS_AT_ONCE = 64
"""Number of tokens whose logits are in float32 at the same time."""


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
                "actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size"
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
        """Return `log_probs`, nested (rows, tokens), which count for trained tokens alone.

        With teachers there is also `divergence`, nested (rows, taught tokens). A batch that asks for `TOP_K` gets
        `TEACHER_IDS`, `TEACHER_PROBS` and `TEACHER_MASS` of its trained tokens instead.
        """
        if PARENTS not in micro_batch:
            usual: dict[str, torch.Tensor] = super().prepare_model_outputs(
                output, output_args, micro_batch, logits_processor_func
            )
            return usual
        token_ids, targets, logits = micro_batch["input_ids"], output_args["targets"], output.logits.squeeze(0)
        if (temperature := micro_batch["temperature"]) != 1:
            logits = logits / temperature
        if k := tu.get_non_tensor_data(micro_batch, TOP_K, 0):
            return self._most_probable(logits, targets, micro_batch, k)
        labels = token_ids.values()[targets]
        taught = TEACHER_IDS in micro_batch
        if not taught and not (logits.is_cuda and _takes_tokens_one_by_one()):
            log_probs = logprobs_from_logits(logits=logits, labels=labels)
            return {"log_probs": self._log_probs(log_probs, targets, token_ids)}
        # Its backward pass may also overwrite the logits, which the divergence needs.
        sums = log_sums(logits)
        log_probs = logits.gather(1, labels.unsqueeze(1)).squeeze(1).float() - sums
        if not taught:
            return {"log_probs": self._log_probs(log_probs, targets, token_ids)}
        divergence = self._divergence(logits, sums, targets, micro_batch)
        offsets = micro_batch[TAUGHT_PLACES].offsets()
        return {
            "log_probs": self._log_probs(log_probs, targets, token_ids),
            "divergence": torch.nested.nested_tensor_from_jagged(divergence, offsets),
        }

    def _log_probs(self, log_probs: torch.Tensor, targets: torch.Tensor, token_ids: Any) -> torch.Tensor:
        spread = self._spread(log_probs, targets, len(token_ids.values()))
        return torch.nested.nested_tensor_from_jagged(spread, token_ids.offsets())

    def _spread(self, values: torch.Tensor, places: torch.Tensor, number: int) -> torch.Tensor:
        """Return `number` rows that hold this rank's values at their places, and those of the other ranks at theirs."""
        spread = values.new_zeros(number, *values.shape[1:]).index_put((places,), values)
        return self._summed(spread)

    def _summed(self, parts: torch.Tensor) -> torch.Tensor:
        """Return the sum over the ranks of a sequence: each has its own part, and all compute the whole loss."""
        if not self.use_ulysses_sp:
            return parts
        summed: torch.Tensor = gather_outputs_and_unpad(parts.unsqueeze(0), gather_dim=0).sum(dim=0)
        return summed

    def _divergence(
        self, logits: torch.Tensor, sums: torch.Tensor, targets: torch.Tensor, micro_batch: TensorDict
    ) -> torch.Tensor:
        """Return the KL divergence from its teacher to the policy, for each taught token."""
        ids, probs = micro_batch[TEACHER_IDS].values(), micro_batch[TEACHER_PROBS].values()
        row_of = targets.new_full((len(micro_batch["input_ids"].values()),), -1)
        row_of[targets] = torch.arange(len(targets), device=targets.device)
        rows = row_of[micro_batch[TAUGHT_PLACES].values()]
        here = rows >= 0
        rows = rows.clamp(min=0)
        log_probs = logits[rows.unsqueeze(1), ids].float() - sums[rows].unsqueeze(1)
        found = -torch.special.entr(probs).sum(dim=1) - (probs * log_probs).sum(dim=1)
        return self._summed(torch.where(here, found, 0.0))

    def _most_probable(
        self, logits: torch.Tensor, targets: torch.Tensor, micro_batch: TensorDict, k: int
    ) -> dict[str, torch.Tensor]:
        """Return what the policy would teach at the trained tokens, each nested (rows, trained tokens, ...)."""
        top, ids = logits.topk(min(k, logits.shape[-1]), dim=-1)
        mass = (top.float().logsumexp(dim=-1) - log_sums(logits)).exp()
        found = {TEACHER_IDS: ids, TEACHER_PROBS: top.float().softmax(dim=-1), TEACHER_MASS: mass}
        trained = micro_batch["loss_mask"].values().nonzero().reshape(-1)
        offsets = torch.tensor([0, len(trained)], device=trained.device)
        tokens = len(micro_batch["input_ids"].values())
        return {
            name: torch.nested.nested_tensor_from_jagged(self._spread(each, targets, tokens)[trained], offsets)
            for name, each in found.items()
        }


def _takes_tokens_one_by_one() -> bool:
    """Return whether verl's function takes 16-bit logits of a GPU token by token (utils/torch_functional.py)."""
    return not is_flash_attn_2_available() or os.environ.get("VERL_DISABLE_FLASH_ATTN_CE") == "1"


def log_sums(logits: torch.Tensor) -> torch.Tensor:
    """Return the logarithms of the sums of exp(logits), shape (tokens,), in float32.

    They are computed a few tokens at a time, and again in the backward pass: a copy of all logits in float32 would be
    twice as large as logits of 16 bits.
    """
    parts = torch.split(logits, TOKENS_AT_ONCE)
    return torch.cat([checkpoint(_log_sum, part, use_reentrant=False, preserve_rng_state=False) for part in parts])


def _log_sum(logits: torch.Tensor) -> torch.Tensor:
    return logits.float().logsumexp(dim=-1)
