"""The names that vLLM and verl take for a precision, and the size of its numbers."""

SHORT_NAMES = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32"}
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def full_name(dtype: str) -> str:
    """Return the name that torch has for a precision, such as "bfloat16" for "bf16"."""
    return SHORT_NAMES.get(dtype, dtype)


def bytes_of(dtype: object, otherwise: int) -> int:
    """Return the bytes of a number, or `otherwise` for a name that is none of a precision, such as "auto"."""
    return BYTES.get(full_name(str(dtype)), otherwise)
