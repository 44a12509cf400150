"""Actions that are calls of tools with a JSON schema: how they are read, and what is said about an ill-formed one.

The parsers are verl's, by the names of `actor_rollout_ref.rollout.multi_turn.format`, and vLLM's for Llama 3, which
verl has none for. They read the text of an answer, so that an environment needs no tokenizer.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leafe_verl.core.text import read_json
from leafe_verl.environments import environment_class, make
from leafe_verl.environments.options import SETTING

LLAMA3 = "llama3_json"
"""Calls as Llama 3.1 writes them: {"name": ..., "parameters": {...}}."""
DEPTH = 50
"""How deep the arguments of a call may be nested."""
Schema = Mapping[str, Any]
"""A tool in OpenAI's form: {"type": "function", "function": {"name", "description", "parameters"}}."""


@dataclass(frozen=True)
class ToolCall:
    """A call that fits the schema of its tool."""

    name: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.name}({json.dumps(self.arguments, ensure_ascii=False)})"


class IllFormedCall(ValueError):
    """An answer calls a tool in a way that cannot be executed. The message is feedback for the model."""


class CallReader:
    """Reads the calls in an answer. Equal answers give equal calls."""

    def __init__(self, tools: Sequence[Schema], form: str) -> None:
        """Raises ValueError for an unknown form, and for a schema that is none."""
        self.schemas = tuple(tools)
        self.tools = {tool["function"]["name"]: tool["function"] for tool in tools}
        self._validators = {name: _validator(name, tool.get("parameters")) for name, tool in self.tools.items()}
        self._parse, self._mark = _find_parser(form)

    def read(self, answer: str) -> list[ToolCall]:
        """Return the calls in an answer, an empty list if it makes none. Raises IllFormedCall."""
        found = self._parse(answer, self.schemas)
        begun = answer.count(self._mark) if self._mark else int(answer.lstrip().startswith("{"))
        if len(found) < begun:
            raise IllFormedCall("A call is not well-formed: expected JSON with the tool's name and its arguments.")
        return [self._checked(name, arguments) for name, arguments in found]

    def answers_call(self, answer: str) -> bool:
        """Return whether the observation after an answer is what tools say, rather than a message of a user."""
        try:
            return bool(self.read(answer))
        except IllFormedCall:
            return False

    def _checked(self, name: str, written: str) -> ToolCall:
        from jsonschema.exceptions import best_match

        if name not in self.tools:
            raise IllFormedCall(f"There is no tool {name!r:.100}. The tools are: {', '.join(self.tools)}.")
        try:
            arguments = read_json(written)
        except ValueError as error:
            raise IllFormedCall(f"The arguments of {name} are not JSON: {error}.") from None
        if _depth(arguments) > DEPTH:
            raise IllFormedCall(f"The arguments of {name} are nested more than {DEPTH} deep.")
        wrong = best_match(self._validators[name].iter_errors(arguments))
        if wrong is not None:
            where = "".join(f"[{each!r}]" for each in wrong.absolute_path)
            raise IllFormedCall(f"The arguments{where} of {name} do not fit its schema: {wrong.message:.300}.")
        return ToolCall(name, arguments)


def _validator(name: str, parameters: Mapping[str, Any] | None) -> Any:
    """Return what checks the arguments of a tool, by the draft of JSON Schema that its schema names."""
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for

    schema = {"type": "object", **(parameters or {})}
    draft = validator_for(schema, default=Draft202012Validator)
    try:
        draft.check_schema(schema)
    except SchemaError as error:
        where = "".join(f"[{each!r}]" for each in error.absolute_path)
        raise ValueError(
            f"the schema of the tool {name!r} is no JSON Schema of {draft.META_SCHEMA['$schema']}: parameters{where}: "
            f"{error.message:.200}; expected one, or one that names its draft in $schema"
        ) from None
    return draft(schema)


def _depth(value: Any) -> int:
    """Return how deep lists and objects are nested, without recursion."""
    deepest, left = 0, [(value, 0)]
    while left:
        each, depth = left.pop()
        deepest = max(deepest, depth)
        if isinstance(each, dict | list):
            left += [(inner, depth + 1) for inner in (each.values() if isinstance(each, dict) else each)]
    return deepest


def find_calls(environment: str, options: Mapping[str, Any]) -> CallReader | None:
    """Return how an environment with these options reads calls; None if its actions are none.

    An environment whose actions are calls has the attribute `calls`. It is made once in a process to be asked.
    """
    if not hasattr(environment_class(environment), "calls"):
        return None
    return _find_calls(environment, json.dumps(dict(options), sort_keys=True))


@functools.lru_cache(maxsize=8)
def _find_calls(environment: str, options: str) -> CallReader | None:
    made: Any = make(environment, **json.loads(options))
    made.close()
    calls: CallReader | None = made.calls
    return calls


def _find_parser(form: str) -> tuple[Any, str | None]:
    """Return a function of (answer, tools) to pairs of a name and JSON arguments, and what each call begins with."""
    if form == LLAMA3:
        return _parse_llama3, None
    parser = _verl_parser(form)
    return functools.partial(_parse_as_verl, parser), getattr(parser, "tool_call_start_token", None)


class _Verbatim:
    """A tokenizer whose tokens are characters: verl's parsers decode what they are given."""

    pad_token = "\0"

    def decode(self, text: str, **_: Any) -> str:
        return text


def _verl_parser(form: str) -> Any:
    from verl.experimental.agent_loop import tool_parser

    tool_parser.logger.setLevel(logging.CRITICAL)  # the model is told, and the log would hold it twice
    try:
        return tool_parser.ToolParser.get_tool_parser(form, _Verbatim())
    except ValueError:
        known = ", ".join(sorted({*tool_parser.ToolParser._registry, LLAMA3}))
        raise ValueError(f"{SETTING}.form is {form!r}; expected one of {known}") from None


def _parse_as_verl(parser: Any, answer: str, tools: Sequence[Schema]) -> list[tuple[str, str]]:
    from verl.tools.schemas import OpenAIFunctionToolSchema

    schemas = [OpenAIFunctionToolSchema.model_validate(_as_verl_holds(tool)) for tool in tools]
    _, calls = asyncio.run(parser.extract_tool_calls(answer, schemas))
    return [(call.name, call.arguments) for call in calls]


def _as_verl_holds(tool: Schema) -> dict[str, Any]:
    """Return what verl's parsers ask of a tool: the types of its parameters, by which they read values in XML.

    verl's model of a schema refuses a tool without a description, and a parameter that says its type by `anyOf`, `$ref`
    or `enum`, as pydantic writes it for optional parameters, models and literals.
    """
    function = tool["function"]
    parameters = function.get("parameters") or {}
    definitions = {**parameters.get("$defs", {}), **parameters.get("definitions", {})}
    properties = {}
    for name, schema in parameters.get("properties", {}).items():
        types = [each for each in _types(schema, definitions) if each != "null"]  # the parsers read null by themselves
        properties[name] = {"type": types if len(types) > 1 else types[0] if types else "string"}
    held = {"type": "object", "properties": properties, "required": list(parameters.get("required", ()))}
    described = {"name": function["name"], "description": function.get("description") or "", "parameters": held}
    return {"type": "function", "function": described}


def _types(schema: Any, definitions: Mapping[str, Any]) -> list[str]:
    """Return the JSON types that a schema allows, as far as it names them, each once."""
    if not isinstance(schema, Mapping):  # true stands for anything
        return []
    if "type" in schema:
        named = schema["type"]
        return [named] if isinstance(named, str) else list(named)
    found: list[str] = []
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        others = {key: each for key, each in definitions.items() if key != name}  # a definition may refer to itself
        found += _types(definitions.get(name), others)
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        found += _types(choice, definitions)
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return list(dict.fromkeys([*found, *(_JSON_TYPES[type(value)] for value in values)]))


_JSON_TYPES = {
    str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object", type(None): "null"
}  # fmt: skip


def _parse_llama3(answer: str, tools: Sequence[Schema]) -> list[tuple[str, str]]:
    extracted = _llama3_parser().extract_tool_calls(answer, None)
    return [(call.function.name, call.function.arguments) for call in extracted.tool_calls]


@functools.lru_cache(maxsize=1)
def _llama3_parser() -> Any:
    from vllm.tool_parsers import llama_tool_parser

    llama_tool_parser.logger.setLevel(logging.CRITICAL)

    class Vocabulary:
        """All that the parser asks of a tokenizer."""

        def get_vocab(self) -> dict[str, int]:
            return {llama_tool_parser.Llama3JsonToolParser.bot_token: 0}

    return llama_tool_parser.Llama3JsonToolParser(Vocabulary())
