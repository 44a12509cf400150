"""The policy on verl's inference servers. Histories contain sampled turns token for token.

An action may be over before its end-of-turn token, if `find_end` is given. It is then sampled in pieces: the engine
stops at each of `pauses`, and goes on from there unless the action is over. The prefix cache holds what was sampled
before.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from verl.utils.tokenizer.continuous_token import ContinuousTokenBuilder
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.replica import TokenOutput

from leafe_verl.core.policy import (
    ContextOverflow,
    History,
    Message,
    PolicyFailure,
    PolicyTimeout,
    PromptUsage,
    Turn,
)
from leafe_verl.core.settings import GenerationSettings, ReflectionSettings
from leafe_verl.environments.tool_calls import CallReader
from leafe_verl.plugin.rollout.chat_format import ChatFormat
from leafe_verl.plugin.rollout.engine_requests import ENGINES, EngineRequests
from leafe_verl.plugin.rollout.turn_end import count_tokens

MAX_PAUSES = 8
"""Number of pieces of an action after which the rest is sampled at once: an answer of fences makes few requests."""
TAIL = 8
"""Number of last tokens that hold the text at which the engine stopped."""
ABORTED = ("aborted", "abort")
"""Stop reasons of requests that were given up, as verl has them with vLLM and with SGLang."""


@dataclass
class ServerPolicy:
    """A `Policy` that samples through verl's `LLMServerClient`, for one exploration tree or one episode."""

    client: LLMServerClient
    chat: ChatFormat
    sampling_params: dict[str, Any]
    """verl's sampling parameters for an action: temperature, top_p, top_k, logprobs, ..."""
    window: int
    """Maximum number of tokens of prompt and turn together."""
    request_id: str
    """verl's sticky-session key. Requests with the same key go to the same replica and share its prefix cache."""
    generation: GenerationSettings
    reflection: ReflectionSettings
    seed: str | None = None
    """Text that is unique to this tree and to the run's seed, from which the sampling seed of each request is derived.
    None: the engine's own random generator is used."""
    find_end: Callable[[str, bool], int | None] | None = None
    """Returns the number of characters after which an action is over, whatever would follow; None if it goes on. Its
    second argument says whether the prompt opened a thought. None: an action ends by its end-of-turn token alone."""
    pauses: tuple[str, ...] = ()
    """Texts at which the engine stops, since an action may be over there. Empty: `find_end` is asked at the
    turn's end."""
    engine: EngineRequests = ENGINES["vllm"]
    """How the inference engine is asked for a grammar, stops and seeds."""
    calls: CallReader | None = None
    """The tools that the chat template renders, and how their calls are read. None: actions are texts."""
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1 << 30))
    """Limits the number of turns that are sampled at the same time. Waiting for a slot is no time of a turn, as waiting
    in an engine's queue would be."""
    weight_versions: set[int] = field(default_factory=set)
    """Training steps whose weights have sampled for this policy."""
    seconds: float = 0.0
    """Seconds spent waiting for the servers, summed over requests."""

    @property
    def builder(self) -> ContinuousTokenBuilder:
        return self.chat.builder

    async def begin(self, messages: Sequence[Message]) -> History:
        """Open a history. Its messages are those of the environment, whatever form the template takes them in."""
        spoken = [dict(message) for message in self.chat.opening(messages)]
        token_ids = await asyncio.to_thread(self.builder.build_initial_tokens, spoken, **self._tools())
        return History(tuple(token_ids), tuple(messages))

    async def extend(self, history: History, turn: Turn, observation: str) -> History:
        """Extend a history as `Policy.extend` does; see `ChatFormat.prompt_with` for what is shown of the turn.

        What follows a well-formed call is a message of the role `tool`.
        """
        drops = self.chat.drops_thoughts(self.generation.earlier_thoughts)
        closed = self.chat.prompt_with(history.token_ids, turn, thoughts=not drops)
        said: Message = {"role": "assistant", "content": turn.text}
        called = self.calls is not None and await asyncio.to_thread(self.calls.answers_call, turn.text)
        answer: Message = {"role": "tool" if called else "user", "content": observation}
        spoken = [*map(dict, self.chat.opening(history.messages)), said]
        merge = functools.partial(self.builder.merge_context_tokens, **self._tools())
        merged = await asyncio.to_thread(merge, spoken, [*spoken, answer], list(closed))
        if tuple(merged.token_ids[: len(closed)]) != closed:
            raise PolicyFailure(
                "verl's continuous-token builder rewrote sampled tokens; name another family in "
                "leafe.generation.chat_family"
            )
        # Nothing may be sampled behind it, as where observations are trained on, so that no turn would ask for room.
        if len(merged.token_ids) > self.window:
            raise ContextOverflow(
                f"a history of {len(merged.token_ids)} tokens is longer than the window of {self.window}; raise "
                "data.max_prompt_length or data.max_response_length"
            )
        return History(tuple(merged.token_ids), (*history.messages, said, answer), (history, turn))

    def _tools(self) -> dict[str, Any]:
        return {"tools": list(self.calls.schemas)} if self.calls else {}

    async def act(self, history: History, request: str) -> Turn:
        return await self._in_time(self._act, history, request)

    async def reflect(self, history: History, schema: Mapping[str, Any], request: str) -> Turn:
        return await self._in_time(self._reflect, history, json.dumps(schema), request)

    async def _reflect(self, history: History, schema: str, request: str) -> Turn:
        """Sample a reflection. Its grammar begins behind the thoughts; without a limit of their own they have no known
        end, so that a model whose prompts open one answers without the grammar."""
        limit, given = self.reflection.max_tokens, self.reflection.temperature
        params = {} if given is None else {"temperature": given}
        turn = await self._think(history, request, limit, params)
        if self.reflection.grammar and turn and not turn.num_thoughts:  # an answer, sampled without the grammar
            turn, request = None, f"{request} in JSON"
        if turn and (self._is_over(turn) or len(turn.token_ids) >= self._limit(turn, limit)):
            return turn
        if self.reflection.grammar and (turn or not self.chat.opens_thought):
            params = {**params, **self.engine.grammar(schema)}
        return await self._sample(history, request, self._limit(turn, limit), params, begun=turn)

    async def _think(
        self, history: History, request: str, answer_tokens: int, params: Mapping[str, Any] | None = None
    ) -> Turn | None:
        """Sample the thoughts before an answer of at most `answer_tokens`, and close them at their own limit.

        Returns None if they have no limit of their own. A turn without thoughts is an answer that may go on.
        """
        limit, closing = self.generation.thought_tokens, self.chat.thoughts.closing_ids
        if limit is None:
            return None
        self._require_room(history, len(history.token_ids), limit + len(closing) + answer_tokens)
        params = {**(params or {}), **self.chat.thoughts.stop(self._stop().get("stop_token_ids", []), self.engine)}
        turn = None
        for most in sorted({min(limit, answer_tokens), limit}):
            turn = await self._sample(history, request, most, params, begun=turn)
            if self._is_over(turn) or not self.chat.thoughts.goes_on(turn.token_ids, opened=self.chat.opens_thought):
                return turn
        assert turn is not None
        log_probs = (*turn.log_probs, *[0.0] * len(closing)) if turn.log_probs else None
        token_ids = (*turn.token_ids, *closing)
        return Turn(
            text="",
            token_ids=token_ids,
            log_probs=log_probs,
            complete=False,
            prompted=turn.prompted,
            num_thoughts=len(token_ids),
            num_closing=len(closing),
        )

    def _limit(self, begun: Turn | None, answer_tokens: int) -> int:
        """Return the token limit of a turn that may have begun with thoughts that have a limit of their own."""
        return answer_tokens + (begun.num_thoughts if begun else 0)

    def _is_over(self, turn: Turn) -> bool:
        return turn.token_ids[-1] in (self.builder.tokenizer.eos_token_id, self.chat.end_of_turn)

    async def _act(self, history: History, request: str) -> Turn:
        pausing = self.engine.stop_behind(self.pauses) if self.pauses else {}
        turn = await self._think(history, request, self.generation.max_tokens)
        limit = self._limit(turn, self.generation.max_tokens)
        if turn and (self._is_over(turn) or len(turn.token_ids) >= limit):
            return self._ended(history, turn) or turn
        for params in [pausing] * MAX_PAUSES + [{}]:
            turn = await self._sample(history, request, limit, params, begun=turn)
            if ended := self._ended(history, turn):
                return ended
            if not self._paused(turn, limit):
                break
        assert turn is not None
        return turn

    async def _sample(
        self, history: History, request: str, max_tokens: int, params: dict[str, Any], begun: Turn | None = None
    ) -> Turn:
        """Sample a turn of at most `max_tokens`, or go on with one that has begun."""
        sampled = begun.token_ids if begun else ()
        prompt = history.token_ids + sampled
        self._require_room(history, len(prompt), max_tokens)
        request_id, seed = self._identity(request, len(prompt))
        remaining = max_tokens - len(sampled)
        params = {**self.sampling_params, **self._stop(), **params, **seed, "max_tokens": remaining}
        output = await self._generate(request_id, list(prompt), params)
        self.weight_versions.add(int(output.extra_fields.get("global_steps") or 0))
        cached = output.extra_fields.get("num_cached_tokens")
        prompted = begun.prompted if begun else None if cached is None else PromptUsage(len(prompt), cached)
        log_probs = (*((begun and begun.log_probs) or ()), *output.log_probs) if output.log_probs else None
        return self._turn((*sampled, *output.token_ids), log_probs, max_tokens, prompted, begun)

    def _require_room(self, history: History, prompted: int, max_tokens: int) -> None:
        if len(history.token_ids) + max_tokens > self.window:
            thoughts = "" if self.generation.thought_tokens is None else " or leafe.generation.thought_tokens"
            raise ContextOverflow(
                f"a prompt of {prompted} tokens leaves no room for a turn of {max_tokens} in a window of "
                f"{self.window}; raise data.max_prompt_length or data.max_response_length, or lower "
                f"leafe.generation.max_tokens{thoughts}"
            )

    async def _generate(self, request_id: str, prompt_ids: list[int], params: dict[str, Any]) -> TokenOutput:
        """Ask a server for tokens. Raises PolicyFailure if none come."""
        begun = asyncio.get_running_loop().time()
        try:
            output: TokenOutput = await self.client.generate(request_id, prompt_ids=prompt_ids, sampling_params=params)
        except Exception as error:
            raise PolicyFailure(f"the inference server failed: {type(error).__name__}: {error}") from error
        self.seconds += asyncio.get_running_loop().time() - begun
        if not output.token_ids or output.stop_reason in ABORTED:
            raise PolicyFailure(f"the inference server gave no tokens (stop reason {output.stop_reason!r})")
        return output

    def _stop(self) -> dict[str, list[int]]:
        """The engine stops at the tokenizer's eos, which is not the template's end of turn in many base tokenizers."""
        end, eos = self.chat.end_of_turn, self.builder.tokenizer.eos_token_id
        return {} if end == eos else {"stop_token_ids": [end]}

    async def _in_time(self, sample: Callable[..., Awaitable[Turn]], *arguments: Any) -> Turn:
        async with self.slots:
            try:
                return await asyncio.wait_for(sample(*arguments), self.generation.timeout)
            except TimeoutError:
                raise PolicyTimeout(
                    f"no turn within {self.generation.timeout:g} s; leafe.generation.timeout sets the limit"
                ) from None

    def _ended(self, history: History, turn: Turn) -> Turn | None:
        """Return the turn up to where it is over, with an end-of-turn token; None if it goes on.

        It goes on, too, if a token holds the end and more than blanks, since tokens are kept as they were sampled.
        """
        if self.find_end is None:
            return None
        tokenizer = self.builder.tokenizer
        characters = self.find_end(tokenizer.decode(turn.token_ids), self.chat.opens_thought)
        kept = None if characters is None else count_tokens(tokenizer.decode, turn.token_ids, characters)
        if kept is None or len(history.token_ids) + kept >= self.window:
            return None
        by_itself = self.chat.is_control(turn.token_ids[-1])
        if by_itself and not tokenizer.decode(turn.token_ids[kept:], skip_special_tokens=True).strip():
            return turn
        token_ids = (*turn.token_ids[:kept], self.chat.end_of_turn)
        log_probs = (*turn.log_probs[:kept], 0.0) if turn.log_probs else None
        return self._build(token_ids, turn, log_probs=log_probs, complete=True, prompted=turn.prompted, num_added=1)

    def _paused(self, turn: Turn, limit: int) -> bool:
        """Return whether the server stopped at one of `pauses`. `limit` is that of the whole turn with its thoughts."""
        tokenizer, token_ids = self.builder.tokenizer, turn.token_ids
        if len(token_ids) >= limit or self.chat.is_control(token_ids[-1]):
            return False
        tail = tokenizer.decode(token_ids[-TAIL:], skip_special_tokens=True)
        return any(pause in tail for pause in self.pauses)

    def _identity(self, request: str, length: int) -> tuple[str, dict[str, Any]]:
        """Return the id of a request and, for full determinism, its sampling seed.

        With `rollout.full_determinism`, verl passes the id on to vLLM (llm_server.py), where every id must be unique.
        """
        if self.seed is None:
            return self.request_id, {}
        digest = hashlib.sha256(f"{self.seed} {request} {length}".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:32], self.engine.seeded(int.from_bytes(digest.digest()[-4:], "big"))

    def _turn(
        self,
        token_ids: tuple[int, ...],
        log_probs: tuple[float, ...] | None,
        max_tokens: int,
        prompted: PromptUsage | None,
        begun: Turn | None,
    ) -> Turn:
        tokenizer = self.builder.tokenizer
        complete = len(token_ids) < max_tokens or token_ids[-1] in (tokenizer.eos_token_id, self.chat.end_of_turn)
        return self._build(token_ids, begun, log_probs=log_probs, complete=complete, prompted=prompted)

    def _build(self, token_ids: tuple[int, ...], begun: Turn | None, **known: Any) -> Turn:
        """Return a turn, with its answer and with how many of its tokens are thoughts and close them."""
        text, num_thoughts = self.chat.split(token_ids)
        num_closing = begun.num_closing if begun else 0
        if begun and num_closing:  # blanks that were sampled behind these tokens are no part of the thoughts
            num_thoughts = begun.num_thoughts
        return Turn(text=text, token_ids=token_ids, num_thoughts=num_thoughts, num_closing=num_closing, **known)
