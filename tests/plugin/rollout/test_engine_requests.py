"""Each engine is asked in its own words."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from leafe_verl.plugin.rollout.engine_requests import ENGINES

SCHEMA = '{"type": "object"}'


def test_sglang_is_asked_in_its_own_words():
    sglang = ENGINES["sglang"]
    assert sglang.grammar(SCHEMA) == {"json_schema": SCHEMA}
    assert sglang.stop_behind(("```",)) == {"stop": ["```"]}
    assert sglang.seeded(7) == {"sampling_seed": 7}


def test_vllm_keeps_the_text_at_which_it_stops():
    assert ENGINES["vllm"].stop_behind(("```",)) == {"stop": ["```"], "include_stop_str_in_output": True}
    assert ENGINES["vllm"].seeded(7) == {"seed": 7}


def test_vllm_gets_one_grammar_for_a_schema():
    pytest.importorskip("vllm", reason="vllm is not installed")
    first, again = (ENGINES["vllm"].grammar(SCHEMA)["structured_outputs"] for _ in range(2))
    assert first is again and first.json == SCHEMA


def test_sglang_knows_these_names_and_those_that_every_engine_gets():
    spec = find_spec("sglang")
    if spec is None or spec.origin is None:
        pytest.skip("sglang is not installed; pip install 'verl[sglang]'")
    code = ast.parse((Path(spec.origin).parent / "srt" / "sampling" / "sampling_params.py").read_text())
    (made,) = [node for node in ast.walk(code) if getattr(node, "name", None) == "SamplingParams"]
    (init,) = [node for node in ast.walk(made) if getattr(node, "name", None) == "__init__"]
    sglang = ENGINES["sglang"]
    asked = {**sglang.grammar(SCHEMA), **sglang.stop_behind(["x"]), **sglang.seeded(7)}
    common = {"temperature", "top_p", "top_k", "repetition_penalty", "stop_token_ids"}
    assert {*asked, *common} <= {argument.arg for argument in init.args.args}
