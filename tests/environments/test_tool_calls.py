"""Calls of tools as models write them, and the feedback to ill-formed ones."""

from __future__ import annotations

import importlib.util
import json

import pytest

from environments.test_verl_tools import TOOLS
from leafe_verl.environments.tool_calls import CallReader, IllFormedCall, ToolCall, find_calls

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
QWEN = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
CODER = (
    "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n"
    "<parameter=b>\n2\n</parameter>\n</function>\n</tool_call>"
)
LLAMA = '{"name": "add", "parameters": {"a": 1, "b": 2}}'
needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="the parser is vLLM's")


@pytest.mark.parametrize(
    ("form", "answer"),
    [("hermes", QWEN), ("qwen3_coder", CODER), pytest.param("llama3_json", LLAMA, marks=needs_vllm)],
)
def test_a_call_is_read_in_the_models_form(form: str, answer: str) -> None:
    reader = CallReader([ADD], form)
    assert reader.read(answer) == [ToolCall("add", {"a": 1, "b": 2})]
    assert reader.answers_call(answer)
    cut = answer[: len(answer) // 2]
    assert not reader.answers_call(cut) and not reader.answers_call("I know it.")
    with pytest.raises(IllFormedCall, match="not well-formed|do not fit"):
        reader.read(cut)
    assert reader.read("I know it.") == []


@pytest.mark.parametrize(
    ("answer", "feedback"),
    [
        (QWEN.replace("1", '"x"'), r"arguments\['a'\] of add do not fit its schema: 'x' is not of type 'integer'"),
        (QWEN.replace("add", "sub"), "no tool 'sub'. The tools are: add"),
        (QWEN + "<tool_call>", "not well-formed"),
        ("<tool_call>[1]</tool_call>", "not well-formed"),
    ],
)
def test_the_feedback_says_what_is_wrong(answer: str, feedback: str) -> None:
    with pytest.raises(IllFormedCall, match=feedback):
        CallReader([ADD], "hermes").read(answer)


def test_arguments_hold_what_tokenizers_and_json_schema_take() -> None:
    noted = '<tool_call>{"name": "note", "arguments": {"text": "\\ud83d!"}}</tool_call>'
    (call,) = CallReader([LOOSE], "hermes").read(noted)
    assert call.arguments == {"text": "?!"}, "JSON spells half a character"
    deep = noted.replace('"\\ud83d!"', '"", "x": ' + "[" * 60 + "]" * 60)
    with pytest.raises(IllFormedCall, match="nested more than 50 deep"):
        CallReader([LOOSE], "hermes").read(deep)


LOOSE = {
    "type": "function",
    "function": {
        "name": "note",
        "parameters": {
            "type": "object",
            "properties": {
                "text": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "level": {"enum": ["1", "2"]},
                "place": {"$ref": "#/$defs/Place"},
                "count": {"oneOf": [{"type": "integer"}, {"const": None}]},
                "anything": True,
            },
            "$defs": {"Place": {"anyOf": [{"type": "object"}, {"$ref": "#/$defs/Place"}]}},
        },
    },
}


def test_parameters_may_say_their_types_as_pydantic_writes_them() -> None:
    given = {"text": "12", "level": "1", "place": {"x": 1}, "count": 3, "anything": "it"}
    written = {"name": "note", "arguments": given}
    assert CallReader([LOOSE], "hermes").read(f"<tool_call>{json.dumps(written)}</tool_call>") == [
        ToolCall("note", given)
    ]
    values = {key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}
    lines = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    called = f"<tool_call>\n<function=note>\n{lines}</function>\n</tool_call>"
    assert CallReader([LOOSE], "qwen3_coder").read(called) == [ToolCall("note", given)]


def test_an_environment_says_how_its_actions_call_tools_if_they_do() -> None:
    calls = find_calls("verl_tools", {"tool_config_path": str(TOOLS)})
    assert calls is not None and list(calls.tools) == ["add", "clock"]
    assert calls is find_calls("verl_tools", {"tool_config_path": str(TOOLS)})
    assert find_calls("sokoban", {}) is None


def with_schema(**parameters):
    return {"type": "function", "function": {"name": "turn", "parameters": {"type": "object", **parameters}}}


def test_a_schema_is_read_by_the_draft_that_it_names():
    pair = {"type": "array", "items": [{"type": "number"}, {"type": "number"}]}
    tool = with_schema(properties={"at": pair}, **{"$schema": "http://json-schema.org/draft-07/schema#"})
    reader = CallReader([tool], "hermes")
    called = '<tool_call>{"name": "turn", "arguments": {"at": %s}}</tool_call>'
    assert reader.read(called % "[1, 2]") == [ToolCall("turn", {"at": [1, 2]})]
    with pytest.raises(IllFormedCall, match=r"\['at'\]\[1\] of turn do not fit its schema"):
        reader.read(called % '[1, "x"]')


@pytest.mark.parametrize(
    "wrong", [{"type": "float"}, {"type": "array", "items": [{"type": "number"}]}, {"pattern": "(?<"}]
)
def test_a_schema_that_is_none_is_refused_before_a_model_is_blamed(wrong):
    with pytest.raises(
        ValueError, match=r"the schema of the tool 'turn' is no JSON Schema of .*\['properties'\]\['at'\]"
    ):
        CallReader([with_schema(properties={"at": wrong})], "hermes")
