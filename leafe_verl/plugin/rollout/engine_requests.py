"""What we ask of an inference engine beyond verl's own sampling parameters, in the words of each engine.

verl hands sampling parameters on to the engine as they are, but for the number of tokens. An engine raises for names
that it does not know, and the request fails.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class EngineRequests(Protocol):
    """The sampling parameters of one engine. Each method returns those for one wish."""

    def grammar(self, schema: str) -> dict[str, Any]:
        """Decode under a JSON schema."""

    def stop_behind(self, texts: Sequence[str]) -> dict[str, Any]:
        """Stop behind the first of these texts, whose tokens are kept."""

    def seeded(self, seed: int) -> dict[str, Any]:
        """Sample with a random generator of the request's own."""


@dataclass(frozen=True)
class VLLMRequests:
    """vLLM's SamplingParams (vllm/sampling_params.py)."""

    def grammar(self, schema: str) -> dict[str, Any]:
        return {"structured_outputs": _vllm_grammar(schema)}

    def stop_behind(self, texts: Sequence[str]) -> dict[str, Any]:
        return {"stop": list(texts), "include_stop_str_in_output": True}

    def seeded(self, seed: int) -> dict[str, Any]:
        return {"seed": seed}


@dataclass(frozen=True)
class SGLangRequests:
    """SGLang's SamplingParams (sglang/srt/sampling/sampling_params.py). They were read in version 0.5.12, not run."""

    def grammar(self, schema: str) -> dict[str, Any]:
        return {"json_schema": schema}

    def stop_behind(self, texts: Sequence[str]) -> dict[str, Any]:
        return {"stop": list(texts)}  # only its text is cut at a stop text, and verl reads the tokens

    def seeded(self, seed: int) -> dict[str, Any]:
        return {"sampling_seed": seed}


ENGINES: dict[str, EngineRequests] = {"vllm": VLLMRequests(), "sglang": SGLangRequests()}
"""`actor_rollout_ref.rollout.name` -> how its engine is asked."""


@functools.lru_cache(maxsize=64)
def _vllm_grammar(schema: str) -> Any:
    from vllm.sampling_params import StructuredOutputsParams

    return StructuredOutputsParams(json=schema)
