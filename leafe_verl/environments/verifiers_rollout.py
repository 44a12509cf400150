"""A rollout of `verifiers` whose model is whoever answers it, and the texts of its messages."""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from leafe_verl.core.text import without_surrogates

_starting = threading.Lock()
"""Held while the loop is started: attempts begin in many threads at once."""


class Rollout:
    """A rollout that runs in the loop of all rollouts, and its model, which waits for what `answer` gives."""

    def __init__(self, environment: Any, example: Mapping[str, Any]) -> None:
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.answers: asyncio.Queue[tuple[str, Sequence[tuple[str, str]]]] = asyncio.Queue()
        played = environment.run_rollout(dict(example), _client_class()(self), "policy", {})
        self._future: Future[Any] = asyncio.run_coroutine_threadsafe(played, _loop())
        self._future.add_done_callback(self.events.put)

    def next_event(self) -> Any:
        """Return the messages of the next prompt, or what the rollout gave at its end. Raises what it raised."""
        event = self.events.get()
        return event.result() if isinstance(event, Future) else event

    def answer(self, text: str, calls: Sequence[tuple[str, str]]) -> None:
        """Give the model's answer, and the calls in it: pairs of a tool's name and JSON arguments."""
        _loop().call_soon_threadsafe(self.answers.put_nowait, (without_surrogates(text), calls))

    def cancel(self) -> None:
        self._future.cancel()


@functools.lru_cache(maxsize=1)
def _client_class() -> Any:
    from verifiers.clients import Client
    from verifiers.types import Response, ResponseMessage, ToolCall

    class Policy(Client):  # type: ignore[misc]  # verifiers is Any to mypy
        """A client of `verifiers` whose model is whoever answers the rollout."""

        def setup_client(self, config: Any) -> Any:
            return config

        async def close(self) -> None:
            """Do nothing: there is no connection."""

        async def to_native_tool(self, tool: Any) -> Any:
            return tool

        async def to_native_prompt(self, messages: Any) -> tuple[Any, dict[str, Any]]:
            return messages, {}

        async def get_native_response(self, prompt: Any, *_: Any, **__: Any) -> Any:
            self.client.events.put(list(prompt))
            return await self.client.answers.get()

        async def raise_from_native_response(self, response: Any) -> None:
            """Raise nothing: every text is an answer."""

        async def from_native_response(self, response: Any) -> Any:
            text, calls = response
            made = [ToolCall(id=f"call_{n}", name=name, arguments=given) for n, (name, given) in enumerate(calls)]
            reason = "tool_calls" if made else "stop"
            message = ResponseMessage(content=text, tool_calls=made or None, finish_reason=reason, is_truncated=False)
            return Response(id="", created=0, model="policy", message=message)

    return Policy


def _loop() -> asyncio.AbstractEventLoop:
    """Return the loop of all rollouts of this process, since environments share what they hold among rollouts."""
    with _starting:
        return _start_loop()


@functools.lru_cache(maxsize=1)
def _start_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="verifiers", daemon=True).start()
    return loop


def field(message: Any, name: str) -> Any:
    """Return a field of a message, which may be an object or a mapping; None if it is absent."""
    return message.get(name) if isinstance(message, Mapping) else getattr(message, name, None)


def text(message: Any) -> str:
    """Return the text of a message, with a word in brackets in the place of anything else, such as an image."""
    content = field(message, "content") or ""
    if not isinstance(content, str):
        content = "\n".join(str(field(part, "text") or f"[{field(part, 'type')}]") for part in content)
    return without_surrogates(content)


def texts(messages: Iterable[Any]) -> str:
    """Return the texts of messages, with blank lines between them."""
    return "\n\n".join(filter(None, map(text, messages)))


def since_answer(messages: Sequence[Any]) -> str:
    """Return what was said after the last turn of the model."""
    last = max((n for n, each in enumerate(messages) if field(each, "role") == "assistant"), default=-1)
    return texts(messages[last + 1 :])
