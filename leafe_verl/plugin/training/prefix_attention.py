"""Attention over a prefix tree, registered as an attention function of transformers. A token sees itself and the
tokens that it follows, but no tokens of other branches.

The keys and values that each segment of the tree sees are gathered, so no work is done that a mask would discard.
If flash-attention is installed and numbers have 16 bits, it computes all segments in one call. Otherwise each segment
is a call of PyTorch's scaled_dot_product_attention.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface, PretrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.utils.import_utils import is_flash_attn_2_available
from verl.utils.ulysses import gather_heads_scatter_seq, gather_seq_scatter_heads

from leafe_verl.plugin.training.prefix_tree import split_segments

NAME = "leafe_prefix_tree"
"""Name of `attend` in transformers' registry of attention functions."""
OFF = "leafe.distillation.share_prefixes=false trains on examples one by one"
"""Advice in messages that prefixes cannot be shared."""


class SegmentLayout(NamedTuple):
    """The tokens that each segment of a prefix tree attends to. Segments are in the order of the tree's tokens."""

    places: torch.Tensor
    """Shape (sum of `keys`,): for each segment, the places of the tokens that it follows, then of its own."""
    queries: list[int]
    """Number of tokens of each segment."""
    keys: list[int]
    """For each segment, the number of tokens that its last token sees, itself included."""
    masks: list[torch.Tensor | None]
    """For each segment, shape (queries, keys), true where a token is seen; None if it is plain causal attention."""
    query_bounds: torch.Tensor
    """Shape (segments + 1,), int32: where each segment's queries begin, and where the last ones end. They are made
    once, since a copy to a GPU in each layer would make the host wait there."""
    key_bounds: torch.Tensor
    """The same for its keys."""


class PrefixTreeInputs(NamedTuple):
    """The inputs that a model needs for a prefix tree, beside its token ids."""

    position_ids: torch.Tensor
    """Shape (tokens,): the number of tokens that each token follows."""
    layout: SegmentLayout
    """Passed to `attend`."""


def tree_inputs(parents: Sequence[int], device: torch.device | str) -> PrefixTreeInputs:
    """Return the inputs of a prefix tree that is given by its `PrefixTree.parents`."""
    segments = split_segments(parents)
    positions = [range(len(s.before), len(s.before) + s.end - s.begin) for s in segments]
    places = [place for s in segments for place in itertools.chain(s.before, range(s.begin, s.end))]
    queries = [s.end - s.begin for s in segments]
    keys = [len(s.before) + s.end - s.begin for s in segments]
    layout = SegmentLayout(
        places=torch.tensor(places, device=device),
        queries=queries,
        keys=keys,
        masks=[None if k == q else _seen(q, k, device) for q, k in zip(queries, keys, strict=True)],
        query_bounds=_bounds(queries, device),
        key_bounds=_bounds(keys, device),
    )
    return PrefixTreeInputs(torch.tensor([*itertools.chain(*positions)], device=device), layout)


def _bounds(lengths: list[int], device: torch.device | str) -> torch.Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)


def _seen(queries: int, keys: int, device: torch.device | str) -> torch.Tensor:
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    layout: SegmentLayout,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within a prefix tree.

    Args:
        query: Shape (1, heads, tokens, head size), with the tokens of this rank of verl's sequence parallelism; `key`
            and `value` have their own number of heads.
        layout: The tokens that each segment sees.

    Returns:
        The output, shape (1, tokens, heads, head size), and None in place of attention weights.

    Raises:
        NotImplementedError: The model's attention has a window, sinks or a soft cap.
    """
    if unknown := [name for name in ("sliding_window", "s_aux", "softcap") if kwargs.get(name) is not None]:
        raise NotImplementedError(f"prefixes cannot be shared by attention with {', '.join(unknown)}; {OFF}")
    # With sequence parallelism each rank has a part of the tokens; it attends for a part of the heads to all of them.
    query, key, value = (gather_seq_scatter_heads(each, seq_dim=2, head_dim=1) for each in (query, key, value))
    key, value = key.index_select(2, layout.places), value.index_select(2, layout.places)
    output = _attend_to_segments(module, query, key, value, layout, scaling, dropout)
    return gather_heads_scatter_seq(output, seq_dim=1, head_dim=2), None


def _attend_to_segments(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: SegmentLayout,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """Attend with keys and values that are laid out as the segments see them."""
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and is_flash_attn_2_available():
        return _flash(query, key, value, layout, scaling, dropout)
    pieces = zip(
        torch.split(query, layout.queries, dim=2),
        torch.split(key, layout.keys, dim=2),
        torch.split(value, layout.keys, dim=2),
        layout.masks,
        strict=True,
    )
    outputs = [
        sdpa_attention_forward(module, q, k, v, m, dropout=dropout, scaling=scaling, is_causal=m is None)[0]
        for q, k, v, m in pieces
    ]
    return torch.cat(outputs, dim=1)


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: SegmentLayout,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """Compute all segments in one call. `causal` aligns the last query with the last key, as segments need."""
    from flash_attn import flash_attn_varlen_func

    output: torch.Tensor = flash_attn_varlen_func(
        *(states.squeeze(0).transpose(0, 1) for states in (query, key, value)),
        layout.query_bounds,
        layout.key_bounds,
        max(layout.queries),
        max(layout.keys),
        dropout_p=dropout,
        softmax_scale=scaling,
        causal=True,
        deterministic=torch.are_deterministic_algorithms_enabled(),  # as fsdp_config.full_determinism asks
    )
    return output.unsqueeze(0)


AttentionInterface.register(NAME, attend)


@contextmanager
def attending_within_trees(config: PretrainedConfig) -> Iterator[None]:
    """Make the model of `config` use `attend`, which needs `layout` among the model's inputs."""
    usual = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = usual


def unsupported_reason(model: PreTrainedModel) -> str | None:
    """Return why a model cannot train on prefix trees; None if it can."""
    config = model.config
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    if not model._supports_attention_backend or not model._supports_sdpa:
        return f"{type(model).__name__} has its own attention, which transformers cannot replace"
    if layers != {"full_attention"} or (not hasattr(config, "layer_types") and getattr(config, "sliding_window", None)):
        return f"{type(model).__name__} has layers that do not attend to all earlier tokens"
    if hasattr(config, "vision_config"):
        return f"{type(model).__name__} takes images"
    return None
