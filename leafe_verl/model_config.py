"""What a model's folder says about its size: config.json, and the headers of its weights. Needs no torch."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAFETENSORS_HEADER_MOST = 100_000_000
"""Bytes of the longest header that the format allows."""
NUMBER_BYTES = {"BF16": 2, "F16": 2, "F32": 4}
COMPARED_ROWS = 64
"""Rows of two matrices that are compared."""
ALIKE = 0.98
"""Cosine beyond which two rows are one in two precisions. Rows of two trained matrices are nowhere near it."""
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
    """Return the numbers in a folder's *.safetensors files, from their headers; None without such a file."""
    return sum(math.prod(tensor.shape) for tensor in read_headers(folder).values()) or None


@dataclass(frozen=True)
class StoredTensor:
    """The place of a tensor in a safetensors file."""

    file: Path
    dtype: str
    """As the format names it: BF16, F16, F32 and others."""
    shape: tuple[int, ...]
    begin: int
    """Place of its first byte in the file."""


def weight_files(folder: Path) -> list[Path]:
    """Return the *.safetensors files of a folder that transformers would load.

    Some models come with a second copy of the weights in one file, under other names.
    """
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        named = {folder / name for name in index["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = folder / "model.safetensors"
        return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    return sorted(filter(Path.is_file, named))


def read_headers(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors in a folder's *.safetensors files, by name; those of a broken file are left out."""
    found: dict[str, StoredTensor] = {}
    for file in weight_files(folder):
        with suppress(ValueError, KeyError, TypeError), file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8).ljust(8, b"\xff"))
            header = json.loads(opened.read(length)) if length <= SAFETENSORS_HEADER_MOST else {}
            for name, entry in header.items():
                if name != "__metadata__":
                    begin = 8 + length + entry["data_offsets"][0]
                    found[name] = StoredTensor(file, entry["dtype"], tuple(entry["shape"]), begin)
    return found


def lost_its_tie(folder: Path) -> bool:
    """Return whether a model's embedding and output are one matrix in two precisions, as in conversions from GGUF.

    Such a file holds the matrix twice, each quantised in its own way, and transformers does not tie them again. Only a
    few rows are compared.
    """
    tensors = read_headers(folder)
    embedding, head = tensors.get("model.embed_tokens.weight"), tensors.get("lm_head.weight")
    if embedding is None or head is None or embedding.shape != head.shape:
        return False
    places = range(0, head.shape[0], max(head.shape[0] // COMPARED_ROWS, 1))
    pairs = [(read_row(embedding, place), read_row(head, place)) for place in places]
    alike = [_cosine(left, right) for left, right in pairs if left is not None and right is not None]
    return bool(alike) and sorted(alike)[len(alike) // 2] > ALIKE


def read_row(tensor: StoredTensor, place: int) -> Sequence[float] | None:
    """Return a row of a matrix; None if its numbers are of another kind than those of unquantised models."""
    if tensor.dtype not in NUMBER_BYTES or len(tensor.shape) != 2:
        return None
    size = NUMBER_BYTES[tensor.dtype]
    with tensor.file.open("rb") as opened:
        opened.seek(tensor.begin + place * tensor.shape[1] * size)
        data = opened.read(tensor.shape[1] * size)
    if tensor.dtype == "BF16":  # the upper half of a float32
        data = b"".join(b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2))
    return struct.unpack(f"<{tensor.shape[1]}{'e' if tensor.dtype == 'F16' else 'f'}", data)


def _cosine(left: Sequence[float], right: Sequence[float]) -> float:
    norms = math.sqrt(math.fsum(x * x for x in left) * math.fsum(x * x for x in right))
    return math.fsum(x * y for x, y in zip(left, right, strict=True)) / norms if norms else 0.0
