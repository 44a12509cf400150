"""config.json of Qwen2.5-Instruct in each of its sizes, for tests of what the sizes of a model decide."""

from __future__ import annotations

from typing import Any

KEYS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
SIZES = {
    "0.5b": (896, 4864, 24, 14, 2),
    "7b": (3584, 18944, 28, 28, 4),
    "14b": (5120, 13824, 48, 40, 8),
    "32b": (5120, 27648, 64, 40, 8),
    "72b": (8192, 29568, 80, 64, 8),
}
"""What config.json says of each size, for `KEYS`."""


def qwen_config(size: str) -> dict[str, Any]:
    """Return config.json of a size. Only the smallest ones tie the embedding to the output."""
    tied = size == "0.5b"
    return {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        **dict(zip(KEYS, SIZES[size], strict=True)),
        "vocab_size": 151936 if tied else 152064,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 32768,
    }


def hub_name(size: str) -> str:
    """Return the name of a size on the hub."""
    return f"Qwen/Qwen2.5-{size.upper()}-Instruct"
