"""How a model is talked to: which builder appends turns, what ends one, and whether there is a system prompt.

All of it is found out by asking the model's own tokenizer and chat template, once in a process. verl's builder of the
model's family is taken where it appends what the template itself would render; else turns are appended as the template
renders them. A model with which neither gives token-exact turns is refused.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verl.utils.tokenizer.continuous_token import ContinuousTokenBuilder
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

from leafe_verl.core.policy import Message, Turn
from leafe_verl.core.thoughts import TAGS
from leafe_verl.plugin.rollout.control_tokens import TextKeepingTokenizer
from leafe_verl.plugin.rollout.thought_format import ThoughtFormat, find_thought_format, unsupported_format

TEMPLATE = "template"
"""Name of our own builder, beside the names of verl's families."""
_TASK, _ANSWER, _FEEDBACK, _SYSTEM = "What is 1 + 1?", "It is 2.", "Right. And 2 + 2?", "Answer briefly."
_NOTE = "A hint: count on your fingers."
_TOOL_TEMPLATE = (
    "take a model whose template has a place for tools, such as Qwen2.5 or Llama 3.1, or give a template in "
    "actor_rollout_ref.model.custom_chat_template"
)


class ChatRefused(ValueError):
    """The model cannot be talked to in turns. The message says why and which setting to change."""


class TemplateBuilder(ContinuousTokenBuilder):  # type: ignore[misc]  # verl is Any to mypy
    """Appends a user's turn as the chat template renders it after an assistant's.

    verl's default builder renders it after a user's turn, which templates with alternating roles refuse, and drops what
    the template writes after an end of turn.
    """

    def __init__(self, tokenizer: Any, **options: Any) -> None:
        super().__init__(tokenizer, **options)
        self.end_of_turn = find_end_of_turn(self)

    def _render_tokens(self, messages: Sequence[Message], **options: Any) -> list[int]:
        """Render without verl's second attempt, which puts an empty user's turn before messages that a template
        refuses (`apply_chat_template` in utils/tokenizer/chat_template.py) and hides why."""
        return _render(self.tokenizer, messages, **options, **self.chat_template_kwargs)

    def _tokenize_single_non_tool(self, message: Message, **options: Any) -> list[int]:
        return self._after_turn(_assistant(_ANSWER), [message], options.get("tools"))

    def _tokenize_tool_group(self, tool_messages: Sequence[Message], **options: Any) -> list[int]:
        called = self._synthetic_assistant_for_tools(tool_messages)
        return self._after_turn(called, tool_messages, options.get("tools"))

    def _after_turn(self, turn: Mapping[str, Any], messages: Sequence[Message], tools: Any) -> list[int]:
        """Return what the template renders behind the end of an assistant's turn."""
        opening, options = [_user(_TASK)], {"add_generation_prompt": True, "tools": tools}
        ended = self._ends(self._render_tokens(opening, **options))
        whole = self._render_tokens([*opening, turn, *messages], **options)
        places = [place for place, token_id in enumerate(whole) if token_id == self.end_of_turn]
        return whole[places[ended] + 1 :]

    def _ends(self, token_ids: Sequence[int]) -> int:
        return sum(token_id == self.end_of_turn for token_id in token_ids)


@dataclass(frozen=True)
class ChatFormat:
    """The answers of a tokenizer and its chat template."""

    builder: ContinuousTokenBuilder
    family: str
    """verl's name of the builder's family, or `template` for our own builder."""
    end_of_turn: int
    """Id of the token with which the template ends a turn of the assistant."""
    takes_system: bool
    """Whether the template renders a system prompt. If not, it becomes the beginning of the first user's turn."""
    opens_thought: bool
    """Whether a prompt ends with an opened `<think>`, so that a turn begins within a thought."""
    same_as_template: bool
    """Whether the template renders a conversation to the very tokens of a history. If not, it renders earlier turns
    otherwise than they were sampled; a history keeps what was sampled."""
    thoughts: ThoughtFormat

    def require_tools(self, schemas: Sequence[Mapping[str, Any]]) -> None:
        """Raise ChatRefused if the template does not render tools, or if a tool's answer is not appended as it does."""
        reference = TemplateBuilder(self.builder.tokenizer, chat_template_kwargs=self.builder.chat_template_kwargs)
        opening, called = [_user(_TASK)], [_user(_TASK), _assistant(_ANSWER)]
        tools, answered = list(schemas), [*called, {"role": "tool", "content": _FEEDBACK}]
        try:
            prompt = self.builder.build_initial_tokens(opening, tools=tools)
            ended = [*prompt, *self.builder.tokenizer.encode(_ANSWER, add_special_tokens=False), self.end_of_turn]
            merged = self.builder.merge_context_tokens(called, answered, list(ended), tools=tools).token_ids
            wanted = [*ended, *reference.tokenize_context_incremental_messages(called, answered, tools=tools)]
        except Exception as error:  # templates raise whatever they like
            raise ChatRefused(f"the chat template cannot render tools ({error}); {_TOOL_TEMPLATE}") from error
        read = self.builder.tokenizer.decode
        unseen = [name for name in (each["function"]["name"] for each in schemas) if name not in read(prompt)]
        if unseen or list(merged) != wanted:
            what = "leaves out " + ", ".join(unseen) if unseen else f"renders {read(wanted)!r}, not {read(merged)!r}"
            raise ChatRefused(f"the chat template has no place for tools: it {what}; {_TOOL_TEMPLATE}")

    def opening(self, messages: Sequence[Message]) -> list[Message]:
        """Return the opening messages as the template takes them."""
        if self.takes_system or len(messages) < 2 or messages[0]["role"] != "system":
            return list(messages)
        system, first, *rest = messages
        return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]

    def is_control(self, token_id: int) -> bool:
        """Return whether a token stands for no text, as those that end a turn."""
        tokenizer = self.builder.tokenizer
        return token_id == tokenizer.eos_token_id or token_id in tokenizer.control.values()

    def given_turn(self, text: str, *, complete: bool) -> Turn:
        """Return a turn that this model did not sample, closed as the template closes one. It holds no thought, and
        closes one that the prompt has opened."""
        thought = self.thoughts.closing_ids if self.opens_thought else ()
        closing = (self.end_of_turn,) if complete else ()
        token_ids = (*thought, *self.builder.tokenizer.encode_text(text), *closing)
        return Turn(text, token_ids, complete=complete, num_thoughts=len(thought), num_closing=len(thought))

    def answer(self, token_ids: Sequence[int]) -> str:
        """Return the text of a turn without its special tokens and without its thoughts."""
        return self.split(token_ids)[0]

    def split(self, token_ids: Sequence[int]) -> tuple[str, int]:
        """Return the text of a turn as `answer` does, and the number of its leading tokens that are thoughts."""
        return self.thoughts.split(token_ids, opened=self.opens_thought)

    def drops_thoughts(self, earlier_thoughts: str | None) -> bool:
        """Return whether prompts leave out the thoughts of earlier turns, as the setting or else the template says."""
        return self.thoughts.dropped if earlier_thoughts is None else earlier_thoughts == "drop"

    def prompt_with(self, history: Sequence[int], turn: Turn, *, thoughts: bool) -> tuple[int, ...]:
        """Return the tokens of a prompt and of a turn, closed, with or without the turn's thoughts.

        A turn that does not end with the template's end of turn, because the token limit cut it or the model ended the
        text instead, is closed by that token, which is context and not trained on.
        """
        opening = self.thoughts.opening_ids
        if thoughts or not (turn.num_thoughts or (opening and turn.text)):
            shown = (*history, *turn.token_ids)
        else:
            opened = bool(opening) and tuple(history[-len(opening) :]) == opening
            kept = history[: len(history) - len(opening) * opened]
            shown = (*kept, *self.thoughts.left_ids, *self._answer_ids(turn))
        return shown if shown[-1] == self.end_of_turn else (*shown, self.end_of_turn)

    def _answer_ids(self, turn: Turn) -> tuple[int, ...]:
        """Return the tokens of the answer: the sampled ones, unless one of them holds an end of a thought as well."""
        tokenizer = self.builder.tokenizer
        if str(tokenizer.decode(list(turn.answer_ids), skip_special_tokens=True)).lstrip() == turn.text.lstrip():
            return turn.answer_ids
        return tuple(tokenizer.encode_text(turn.text))

    def describe(self) -> str:
        """Return what was found, in one paragraph."""
        tokenizer = self.builder.tokenizer
        end, eos = (tokenizer.convert_ids_to_tokens(each) for each in (self.end_of_turn, tokenizer.eos_token_id))
        kept = "the same tokens as the template's" if self.same_as_template else "sampled tokens are kept"
        whose = "our" if self.family == TEMPLATE else "verl's"
        return (
            f"turns are appended by {whose} builder {self.family!r} "
            f"({kept}); a turn ends with {end}"
            + ("" if end == eos else f", not with the tokenizer's eos {eos}")
            + ("" if self.takes_system else "; no system prompt: it opens the first user's turn")
            + ("; prompts open a thought" if self.opens_thought else "")
            + ("; the template leaves out the thoughts of earlier turns" if self.thoughts.dropped else "")
        )


def ask_tokenizer(
    tokenizer: Any,
    *,
    family: str | None = None,
    model_type: str | None = None,
    template_options: Mapping[str, Any] | None = None,
) -> ChatFormat:
    """Return how to talk to a model. Raises ChatRefused if no way gives token-exact turns.

    Args:
        family: `leafe.generation.chat_family`; None: the first builder that fits.
        model_type: `model_type` of the model's config.json.
        template_options: `data.apply_chat_template_kwargs`.
    """
    options = json.dumps(dict(template_options or {}), sort_keys=True)
    return _ask(tokenizer, str(tokenizer.chat_template), family, model_type, options)


@functools.lru_cache(maxsize=8)
def _ask(tokenizer: Any, template: str, family: str | None, model_type: str | None, options: str) -> ChatFormat:
    if not tokenizer.chat_template:
        raise ChatRefused(
            "the tokenizer has no chat template, as that of a base model; take an instruction-tuned model, or give a "
            "template in actor_rollout_ref.model.custom_chat_template"
        )
    given = {"chat_template_kwargs": json.loads(options)}
    reader = TextKeepingTokenizer(tokenizer)
    reference = _reference(reader, given)
    _refuse_unsupported_thoughts(reference)
    problems = []
    for name in [family] if family else _families(reader, model_type, template):
        try:
            if name == TEMPLATE:
                builder: ContinuousTokenBuilder = reference
            else:
                builder = create_continuous_token_builder(reader, model_family=name, hf_model_type=model_type, **given)
            return _format(builder, name, reference)
        except Exception as error:  # templates raise whatever they like
            problems.append(f"{name}: {error}")
    raise ChatRefused(
        f"turns cannot be appended token for token ({'; '.join(problems)}); name another family in "
        "leafe.generation.chat_family, or another template in actor_rollout_ref.model.custom_chat_template"
    )


def _refuse_unsupported_thoughts(reference: TemplateBuilder) -> None:
    spoken = [_user(_TASK), _assistant(_ANSWER), _user(_FEEDBACK)]
    name = unsupported_format(reference.tokenizer.decode(reference._render_tokens(spoken, add_generation_prompt=True)))
    if name:
        raise ChatRefused(
            f"the chat template writes thoughts as {name}; this format is not supported, since its thoughts would be "
            f"taken for actions. Expected thoughts between two tags ({', '.join(TAGS)}), or none; take another model, "
            "or switch its thoughts off in data.apply_chat_template_kwargs if the template has an option for it"
        )


def _reference(reader: TextKeepingTokenizer, given: dict[str, Any]) -> TemplateBuilder:
    """Return the builder whose tokens others are compared with: the template's own."""
    try:
        return TemplateBuilder(reader, **given)
    except ChatRefused:
        raise
    except Exception as error:  # templates raise whatever they like
        raise ChatRefused(
            f"the chat template cannot render a user's turn, an answer and another turn: {type(error).__name__}: "
            f"{error}; give another one in actor_rollout_ref.model.custom_chat_template"
        ) from error


def _families(tokenizer: Any, model_type: str | None, template: str) -> Iterator[str]:
    """Yield the builders to try: verl's for the model's type, its ChatML builder for ChatML, then our own."""
    if "<|im_start|>" in template and "qwen" not in str(model_type):
        yield "qwen"
    else:
        yield "auto"
    yield TEMPLATE


def _format(builder: ContinuousTokenBuilder, family: str, reference: TemplateBuilder) -> ChatFormat:
    """Play two turns, a cut one and one with a note. Raises ValueError if tokens differ from the template's."""
    end = reference.end_of_turn
    takes_system = _takes_system(reference)
    opening = [_system(_SYSTEM), _user(_TASK)] if takes_system else [_user(f"{_SYSTEM}\n\n{_TASK}")]
    prompt = builder.build_initial_tokens(opening)
    answer = builder.tokenizer.encode(_ANSWER, add_special_tokens=False)
    history = [*prompt, *answer, end]
    spoken = [*opening, _assistant(_ANSWER)]
    for feedback in (_FEEDBACK, f"{_FEEDBACK}\n\n{_NOTE}"):
        answered = [*spoken, _user(feedback)]
        merged = builder.merge_context_tokens(spoken, answered, list(history)).token_ids
        wanted = [*history, *reference.tokenize_context_incremental_messages(spoken, answered)]
        if list(merged) != wanted:
            theirs, ours = (builder.tokenizer.decode(list(each[len(history) :])) for each in (merged, wanted))
            raise ValueError(f"it appends {theirs!r}, the template {ours!r}")
    rendered = reference._render_tokens(answered, add_generation_prompt=True)
    thoughts = find_thought_format(builder.tokenizer, prompt, builder.chat_template_kwargs)
    same = list(merged) == list(rendered)
    return ChatFormat(builder, family, end, takes_system, bool(thoughts.opening_ids), same, thoughts)


def _render(tokenizer: Any, messages: Sequence[Message], **options: Any) -> list[int]:
    return list(tokenizer.apply_chat_template(list(messages), tokenize=True, return_dict=False, **options))


def _takes_system(reference: TemplateBuilder) -> bool:
    """Some templates refuse a system prompt (Gemma 2), others leave it out silently."""
    try:
        prompt = reference.build_initial_tokens([_system(_SYSTEM), _user(_TASK)])
    except Exception:
        return False
    return _SYSTEM in reference.tokenizer.decode(prompt)


def find_end_of_turn(builder: ContinuousTokenBuilder) -> int:
    """Return the first control token after an assistant's text. Raises ChatRefused if there is none."""
    tokenizer = builder.tokenizer
    whole = builder._render_tokens([_user(_TASK), _assistant(_ANSWER), _user(_FEEDBACK)], add_generation_prompt=True)
    text = tokenizer.decode(whole)
    if _ANSWER not in text:
        raise ChatRefused(f"the chat template leaves out the assistant's turns: {text!r}")
    control = set(tokenizer.control.values())
    place = next(n for n in range(1, len(whole) + 1) if _ANSWER in tokenizer.decode(whole[:n]))
    end = next((token_id for token_id in whole[place:] if token_id in control), None)
    if end is None or _FEEDBACK in tokenizer.decode(whole[place : whole.index(end, place)]):
        raise ChatRefused(
            f"the chat template ends the assistant's turn without a control token ({text!r}), so that no sampled turn "
            "could end; give another one in actor_rollout_ref.model.custom_chat_template"
        )
    return int(end)


def _system(text: str) -> Message:
    return {"role": "system", "content": text}


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}
