"""What the algorithm asks of a language model: token-exact histories, actions and reflections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Message = Mapping[str, str]
"""A chat message: `role` and `content`."""


@dataclass(frozen=True)
class PromptUsage:
    """What it took the inference engine to read a prompt."""

    num_tokens: int
    """Of the prompt, notes included."""
    num_cached: int
    """Of these, the ones that its prefix cache held already."""


@dataclass(frozen=True)
class Turn:
    """One sampled assistant turn, verbatim."""

    text: str
    """The decoded turn, without its end-of-turn token."""
    token_ids: tuple[int, ...]
    """As sampled; a complete turn ends with its end-of-turn token."""
    log_probs: tuple[float, ...] | None = None
    """Natural-log probability of each token under the sampling policy; None where the engine gave none."""
    complete: bool = True
    """False when the token limit cut the turn, so that it has no end-of-turn token."""
    prompted: PromptUsage | None = field(default=None, compare=False)
    """None where the engine does not say; never stored."""

    def __post_init__(self) -> None:
        if self.log_probs is not None and len(self.log_probs) != len(self.token_ids):
            raise ValueError(f"{len(self.token_ids)} tokens came with {len(self.log_probs)} log-probs")


@dataclass(frozen=True)
class History:
    """A prompt: everything up to the point where the next action is sampled (h_t in the paper)."""

    token_ids: tuple[int, ...]
    """The whole prompt, the header of the coming assistant turn included. Actions stand in it as sampled."""
    messages: tuple[Message, ...]
    """The same as chat messages; the last one is the latest observation."""
    previous: tuple[History, Turn] | None = field(default=None, repr=False)
    """The history and action before the latest observation; None for an opening prompt. A step whose history does not
    name its predecessor's here has begun another sequence of tokens; see context.py."""


class PolicyFailure(Exception):
    """The model gave no turn. The attempt is unscored."""


class PolicyTimeout(PolicyFailure):
    """No turn came within the time limit."""


class ContextOverflow(PolicyFailure):
    """The prompt leaves the model's window no room for a turn."""


class Policy(Protocol):
    """The language model that plays one exploration tree. Every failure is raised as a `PolicyFailure`.

    `request` names the part of the tree that a turn is sampled for, such as "attempt 2.0". Requests with the same
    history differ in it, so that a policy can derive a sampling seed for each, whatever the order in which they come.
    """

    async def begin(self, messages: Sequence[Message]) -> History:
        """Tokenise an opening prompt."""

    async def extend(self, history: History, turn: Turn, observation: str) -> History:
        """Append a sampled turn, token for token, and the observation that answers it."""

    async def act(self, history: History, request: str) -> Turn:
        """Sample an action."""

    async def reflect(self, history: History, schema: Mapping[str, Any], request: str) -> Turn:
        """Sample an answer about the turns so far, constrained to a JSON schema if the engine supports it."""


async def annotate(policy: Policy, history: History, note: str) -> History:
    """Return `history` with `note` at the end of its latest observation.

    The note shares a message with the observation because many chat templates refuse two user messages in a
    row; all tokens before it stay those of `history`, so a prefix cache keeps them.
    """
    content = noted(history.messages[-1]["content"], note)
    if history.previous is None:
        return await policy.begin([*history.messages[:-1], {**history.messages[-1], "content": content}])
    return await policy.extend(*history.previous, content)


def noted(observation: str, note: str) -> str:
    """Return an observation with a note at its end."""
    return f"{observation}\n\n{note}"
