"""Attention over a prefix tree, as one of transformers' attention functions. A token sees the tokens that it follows,
and no sibling.

Each segment of the tree attends to the tokens before it and to itself, whose keys and values are gathered; nothing is
computed that a mask would then throw away. flash-attention takes all segments in one call, where it is installed and
numbers have 16 bits; otherwise each is a call of PyTorch's scaled_dot_product_attention.
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

from leafe_verl.plugin.training.prefix_tree import split_segments

NAME = "leafe_prefix_tree"
"""Name of `attend` in transformers' registry of attention functions."""
OFF = "leafe.distillation.share_prefixes=false trains one by one"


class SegmentLayout(NamedTuple):
    """What each segment of a prefix tree attends to. Segments stand in the order of the tree's tokens."""

    places: torch.Tensor
    """(keys,): for each segment in turn, the positions of the tokens that it follows and of its own."""
    queries: list[int]
    """Number of tokens of each segment."""
    keys: list[int]
    """For each segment, the number of tokens that its last token sees."""
    masks: list[torch.Tensor | None]
    """For each segment, (queries, keys), true where a token is seen; None where plain causal attention does."""


class PrefixTreeInputs(NamedTuple):
    position_ids: torch.Tensor
    """(tokens,): the number of tokens that each token follows."""
    layout: SegmentLayout


def tree_inputs(parents: Sequence[int], device: torch.device | str) -> PrefixTreeInputs:
    """Return the inputs that a model needs beside the token ids of a prefix tree. `parents` is `PrefixTree.parents`."""
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
    )
    return PrefixTreeInputs(torch.tensor([*itertools.chain(*positions)], device=device), layout)


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
        query: (1, heads, tokens, head size); `key` and `value` the same with their own number of heads.
        layout: What each segment sees.

    Returns:
        (1, tokens, heads, head size), and no attention weights.

    Raises:
        NotImplementedError: The model's attention has a window, sinks or a soft cap.
    """
    if unknown := [name for name in ("sliding_window", "s_aux", "softcap") if kwargs.get(name) is not None]:
        raise NotImplementedError(f"prefixes cannot be shared with attention that has {', '.join(unknown)}; {OFF}")
    key, value = key.index_select(2, layout.places), value.index_select(2, layout.places)
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and is_flash_attn_2_available():
        return _flash(query, key, value, layout, scaling, dropout), None
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
    return torch.cat(outputs, dim=1), None


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: SegmentLayout,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """Compute all segments in one call. With fewer queries than keys, `causal` aligns the last of both."""
    from flash_attn import flash_attn_varlen_func

    def cumulative(lengths: list[int]) -> torch.Tensor:
        return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=query.device)

    output: torch.Tensor = flash_attn_varlen_func(
        *(states.squeeze(0).transpose(0, 1) for states in (query, key, value)),
        cumulative(layout.queries),
        cumulative(layout.keys),
        max(layout.queries),
        max(layout.keys),
        dropout_p=dropout,
        softmax_scale=scaling,
        causal=True,
    )
    return output.unsqueeze(0)


AttentionInterface.register(NAME, attend)


@contextmanager
def attending_within_trees(config: PretrainedConfig) -> Iterator[None]:
    """Make the model of `config` use `attend`, which then expects `layout` among the model's inputs."""
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
        return f"{type(model).__name__} brings an attention of its own"
    if layers != {"full_attention"} or (not hasattr(config, "layer_types") and getattr(config, "sliding_window", None)):
        return f"{type(model).__name__} has layers that do not attend to all tokens before"
    if hasattr(config, "vision_config"):
        return f"{type(model).__name__} reads pictures"
    return None
