"""The interface to the language model: token-exact histories, actions and reflections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Message = Mapping[str, str]
"""A chat message with the keys `role` and `content`."""


@dataclass(frozen=True)
class PromptUsage:
    """How many tokens of a prompt the inference engine read, and how many it had cached."""

    num_tokens: int
    """Prompt tokens, including notes."""
    num_cached: int
    """Prompt tokens that the prefix cache already held."""


@dataclass(frozen=True)
class Turn:
    """One sampled assistant turn, verbatim."""

    text: str
    """The decoded turn, without its end-of-turn token and without its thoughts."""
    token_ids: tuple[int, ...]
    """The sampled tokens, and `num_added` and `num_closing` others. A complete turn ends with its end-of-turn token."""
    log_probs: tuple[float, ...] | None = None
    """Natural-log probability of each token under the sampling policy; 0.0 for added tokens. None if the engine
    returned none."""
    complete: bool = True
    """False if the token limit cut the turn off, so that it has no end-of-turn token."""
    prompted: PromptUsage | None = field(default=None, compare=False)
    """How the prompt of this turn was read. None if the engine does not say; never stored."""
    num_added: int = 0
    """Number of tokens at the end of `token_ids` that nobody sampled: 1, the end-of-turn token, if the turn was ended
    where `leafe.generation.stop_at` says; else 0. SFT trains on them, and GRPO does not."""
    num_thoughts: int = 0
    """Number of tokens at the beginning of `token_ids` that are thoughts, with the tags and blanks around them. `text`
    does not hold them."""
    num_closing: int = 0
    """Number of tokens at the end of the thoughts that nobody sampled: they close a thought that was longer than
    `leafe.generation.thought_tokens`. They are never trained on."""

    def __post_init__(self) -> None:
        if self.log_probs is not None and len(self.log_probs) != len(self.token_ids):
            raise ValueError(f"{len(self.token_ids)} tokens came with {len(self.log_probs)} log-probs")
        if not 0 <= self.num_added <= len(self.token_ids):
            raise ValueError(f"{self.num_added} of {len(self.token_ids)} tokens are said to be added")
        if not 0 <= self.num_closing <= self.num_thoughts <= len(self.token_ids) - self.num_added:
            raise ValueError(
                f"{self.num_thoughts} of {len(self.token_ids)} tokens are said to be thoughts, {self.num_closing} of "
                f"them to close one, and {self.num_added} to be added"
            )

    @property
    def num_sampled(self) -> int:
        """Number of tokens that the policy sampled."""
        return len(self.token_ids) - self.num_added - self.num_closing

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """The tokens behind the thoughts; all tokens of a turn without thoughts."""
        return self.token_ids[self.num_thoughts :]

    def mask(self, *, added_tokens: bool = True, thoughts: bool = True) -> list[int]:
        """Return 1 for each token to train on, else 0: with or without the tokens that were added, and the thoughts."""
        answer = len(self.token_ids) - self.num_thoughts - self.num_added
        sampled_thoughts = [int(thoughts)] * (self.num_thoughts - self.num_closing)
        return [*sampled_thoughts, *[0] * self.num_closing, *[1] * answer, *[int(added_tokens)] * self.num_added]


@dataclass(frozen=True)
class History:
    """A prompt: everything up to the point where the next action is sampled (h_t in the paper)."""

    token_ids: tuple[int, ...]
    """The whole prompt, including the header of the coming assistant turn. It contains actions exactly as sampled, with
    or without their thoughts (`leafe.generation.earlier_thoughts`)."""
    messages: tuple[Message, ...]
    """The same prompt as chat messages. The last message is the latest observation."""
    previous: tuple[History, Turn] | None = field(default=None, repr=False)
    """The history and action before the latest observation. None for an opening prompt, with which a new sequence of
    tokens begins; see context.py."""


class PolicyFailure(Exception):
    """The model returned no turn. The attempt is unscored."""


class PolicyTimeout(PolicyFailure):
    """No turn came within the time limit."""


class ContextOverflow(PolicyFailure):
    """The prompt leaves no room for a turn in the model's context window."""


class Policy(Protocol):
    """The language model that plays one exploration tree. Every failure is raised as a `PolicyFailure`.

    `request` names the part of the tree that a turn is sampled for, such as "attempt 2.0". Requests with the same
    history differ in it, so that a policy can derive a sampling seed for each, whatever the order in which they come.
    """

    async def begin(self, messages: Sequence[Message]) -> History:
        """Tokenise an opening prompt."""

    async def extend(self, history: History, turn: Turn, observation: str) -> History:
        """Append a sampled turn, token for token, and the observation that follows it.

        Raises ContextOverflow if that is longer than the model's window, whether or not a turn is sampled next.
        """

    async def act(self, history: History, request: str) -> Turn:
        """Sample an action."""

    async def reflect(self, history: History, schema: Mapping[str, Any], request: str) -> Turn:
        """Sample an answer about the turns so far, constrained to a JSON schema if the engine supports it."""


async def annotate(policy: Policy, history: History, note: str) -> History:
    """Return `history` with `note` appended to its latest observation.

    The note is part of the observation's message because many chat templates refuse two user messages in a row. All
    tokens before it stay those of `history`, so that the prefix cache still applies.
    """
    content = append_note(history.messages[-1]["content"], note)
    if history.previous is None:
        return await policy.begin([*history.messages[:-1], {**history.messages[-1], "content": content}])
    return await policy.extend(*history.previous, content)


def append_note(observation: str, note: str) -> str:
    """Return an observation with a note appended."""
    return f"{observation}\n\n{note}"
