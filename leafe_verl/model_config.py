"""What a model's folder says about its size: config.json, and the headers of its weights. Needs neither torch nor network."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAFETENSORS_HEADER_MOST = 100_000_000
"""Bytes of the longest header that the format allows."""
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Keys of config.json that mean a mixture of experts."""


def find_config(model: str) -> Path | None:
    """Return the config.json of a Hugging Face folder, of a checkpoint of verl, or of a hub name in the local cache.

    None means that there is none here: the model is only on the hub, or the path is wrong.
    """
    folder = Path(model).expanduser()
    inside = ("", "merged", "huggingface", "actor/huggingface")
    found = [folder / each / "config.json" for each in inside if (folder / each / "config.json").is_file()]
    if found or folder.exists() or str(model).count("/") != 1:
        return found[0] if found else None
    from huggingface_hub import try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(str(model), "config.json")
    except ValueError:  # not a name that the hub would take
        return None
    return Path(cached) if isinstance(cached, str) else None


def read_config(model: str) -> dict[str, Any] | None:
    """Return what `find_config` finds, read; None for a file that holds no JSON object."""
    path = find_config(model)
    try:
        config = json.loads(path.read_text()) if path else None
    except ValueError:
        return None
    return config if isinstance(config, dict) else None


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder-only transformer that decide what it needs of memory."""

    layers: int
    hidden: int
    intermediate: int
    """Width of the MLP."""
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    """Whether embedding and output are one matrix."""
    parameters: int
    """Numbers in all weights, where a tied matrix counts once."""

    @property
    def embedding(self) -> int:
        """Parameters of one of the matrices between tokens and vectors."""
        return self.vocab * self.hidden

    @property
    def kv_numbers_per_token(self) -> int:
        """Numbers in the key-value cache for one token."""
        return 2 * self.layers * self.kv_heads * self.head_dim

    @classmethod
    def read(cls, model: str) -> ModelShape | None:
        """Return the shape of a model whose config.json is here; None where it is not, or says something else.

        The number of parameters comes from the headers of the weights where these are beside it. A mixture of experts
        has no shape without them.
        """
        config, path = read_config(model), find_config(model)
        if config is None or path is None:
            return None
        return cls.from_config(config, parameters=count_parameters(path.parent))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], parameters: int | None = None) -> ModelShape | None:
        """Return the shape that config.json describes; None where it lacks a size. `parameters` None: by formula."""
        # Models of text and images keep the language model's sizes in a section of their own.
        config = {**config, **config.get("text_config", {})}
        try:
            hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
            sizes = {
                "layers": int(config["num_hidden_layers"]),
                "hidden": hidden,
                "intermediate": int(config["intermediate_size"]),
                "heads": heads,
                "kv_heads": int(config.get("num_key_value_heads") or heads),
                "head_dim": int(config.get("head_dim") or hidden // heads),
                "vocab": int(config["vocab_size"]),
            }
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return None
        tied = bool(config.get("tie_word_embeddings", False))
        if parameters is None and any(config.get(key) for key in EXPERTS):
            return None
        return cls(**sizes, tied=tied, parameters=parameters or _dense_parameters(sizes, tied))


def _dense_parameters(sizes: Mapping[str, int], tied: bool) -> int:
    """Count the matrices of a Llama or Qwen; biases and norms are less than a thousandth."""
    hidden, attention = sizes["hidden"], sizes["heads"] * sizes["head_dim"]
    keys = sizes["kv_heads"] * sizes["head_dim"]
    layer = hidden * (2 * attention + 2 * keys + 3 * sizes["intermediate"] + 2)
    return sizes["layers"] * layer + (1 if tied else 2) * sizes["vocab"] * hidden + hidden


def count_parameters(folder: Path) -> int | None:
    """Return the numbers in all *.safetensors files of a folder, from their headers; None without such a file."""
    shapes = [entry["shape"] for file in sorted(folder.glob("*.safetensors")) for entry in read_header(file).values()]
    return sum(math.prod(shape) for shape in shapes) or None


def read_header(file: Path) -> dict[str, Any]:
    """Return name -> dtype, shape and place of each tensor in a safetensors file; empty for a broken one."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8).ljust(8, b"\0"))
        if length > SAFETENSORS_HEADER_MOST:
            return {}
        try:
            header = json.loads(opened.read(length))
        except ValueError:
            return {}
    return {name: entry for name, entry in header.items() if name != "__metadata__"}
