"""Attention over a prefix tree, as one of transformers' attention functions: a token sees what it follows, no sibling.

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
from transformers.utils import is_flash_attn_2_available

from leafe_verl.plugin.training.prefix_tree import segments_of

NAME = "leafe_prefix_tree"
"""Under which transformers knows `attend`."""
OFF = "leafe.distillation.share_prefixes=false trains one by one"


class SegmentLayout(NamedTuple):
    """What each segment of a prefix tree attends to. Segments are in the order of the tree's tokens."""

    places: torch.Tensor
    """(keys,): for each segment the places of what it follows and of itself, one segment after another."""
    queries: list[int]
    """Tokens of each segment."""
    keys: list[int]
    """Tokens that its last one sees."""
    masks: list[torch.Tensor | None]
    """(queries, keys) of each segment, true where a token is seen; None where that is plainly causal."""


class PrefixTreeInputs(NamedTuple):
    position_ids: torch.Tensor
    """(tokens,): how many tokens each follows."""
    reach: SegmentLayout


def inputs_of(parents: Sequence[int], device: torch.device | str) -> PrefixTreeInputs:
    """Return what a model needs beside the token ids of a prefix tree, given as in `PrefixTree.parents`."""
    segments = segments_of(parents)
    positions = [range(len(s.before), len(s.before) + s.end - s.begin) for s in segments]
    places = [place for s in segments for place in itertools.chain(s.before, range(s.begin, s.end))]
    queries = [s.end - s.begin for s in segments]
    keys = [len(s.before) + s.end - s.begin for s in segments]
    reach = SegmentLayout(
        places=torch.tensor(places, device=device),
        queries=queries,
        keys=keys,
        masks=[None if k == q else _seen(q, k, device) for q, k in zip(queries, keys, strict=True)],
    )
    return PrefixTreeInputs(torch.tensor([*itertools.chain(*positions)], device=device), reach)


def _seen(queries: int, keys: int, device: torch.device | str) -> torch.Tensor:
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    reach: SegmentLayout,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within a prefix tree.

    Args:
        query: (1, heads, tokens, head size); `key` and `value` the same with their own number of heads.
        reach: What each segment sees.

    Returns:
        (1, tokens, heads, head size), and no attention weights.

    Raises:
        NotImplementedError: The model's attention has a window, sinks or a soft cap.
    """
    if unknown := [name for name in ("sliding_window", "s_aux", "softcap") if kwargs.get(name) is not None]:
        raise NotImplementedError(f"prefixes cannot be shared with attention that has {', '.join(unknown)}; {OFF}")
    key, value = key.index_select(2, reach.places), value.index_select(2, reach.places)
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and is_flash_attn_2_available():
        return _flash(query, key, value, reach, scaling, dropout), None
    pieces = zip(
        query.split(reach.queries, dim=2),
        key.split(reach.keys, dim=2),
        value.split(reach.keys, dim=2),
        reach.masks,
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
    reach: SegmentLayout,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """One call for all segments: with fewer queries than keys, `causal` aligns the last query with the last key."""
    from flash_attn import flash_attn_varlen_func

    def cumulative(lengths: list[int]) -> torch.Tensor:
        return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=query.device)

    output = flash_attn_varlen_func(
        *(states.squeeze(0).transpose(0, 1) for states in (query, key, value)),
        cumulative(reach.queries),
        cumulative(reach.keys),
        max(reach.queries),
        max(reach.keys),
        dropout_p=dropout,
        softmax_scale=scaling,
        causal=True,
    )
    return output.unsqueeze(0)


AttentionInterface.register(NAME, attend)


@contextmanager
def attending_within_trees(config: PretrainedConfig) -> Iterator[None]:
    """Let the model of `config` attend by `attend`, which is then to be given `reach` with its inputs."""
    usual = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = usual


def obstacle(model: PreTrainedModel) -> str | None:
    """Return why a model cannot be given prefix trees; None if it can."""
    config = model.config
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    if not model._supports_attention_backend or not model._supports_sdpa:
        return f"{type(model).__name__} brings an attention of its own"
    if layers != {"full_attention"} or (not hasattr(config, "layer_types") and getattr(config, "sliding_window", None)):
        return f"{type(model).__name__} has layers that do not attend to all tokens before"
    if hasattr(config, "vision_config"):
        return f"{type(model).__name__} reads pictures"
    return None
