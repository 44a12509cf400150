"""Text that spells a control token stays text: a task or an observation with `<|im_end|>` in it ends no turn.

A tokenizer reads the text that a chat template has rendered, and cannot tell the template's `<|im_end|>` from one that
a program printed. Where a message spells a control token, the template is therefore rendered with marks in its place,
the template's own control tokens are respelled, and the result is read by a copy of the tokenizer that knows them by
that spelling alone. The tokens of all other messages are those of the tokenizer itself.
"""

from __future__ import annotations

import functools
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

_NONCE = secrets.token_hex(8)
"""Makes marks that no message can spell. The tokens do not depend on it."""
_MARK = re.compile(f"\ue000{_NONCE}:(\\d+)\ue001")


def _mark(number: int) -> str:
    return f"\ue000{_NONCE}:{number}\ue001"


def _respelled(token_id: int) -> str:
    return f"\ue002{_NONCE}:{token_id}\ue003"


class TextKeepingTokenizer:
    """A tokenizer whose `apply_chat_template` reads messages as text. Everything else is the tokenizer's own."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.control = control_tokens(tokenizer)
        spellings = sorted(self.control, key=len, reverse=True)
        self._spelled = re.compile("|".join(map(re.escape, spellings)) or r"(?!)")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def apply_chat_template(self, conversation: Sequence[Mapping[str, Any]], **options: Any) -> Any:
        """Return what transformers' method returns, with no control token that comes from a message's text."""
        contents = [message.get("content") for message in conversation]
        texts = [content for content in contents if isinstance(content, str)]
        if not options.get("tokenize", True) or not any(map(self._spells_control, texts)):
            return self._tokenizer.apply_chat_template(conversation, **options)
        marked = [self._marked(message) for message in conversation]
        plain = {**options, "tokenize": False, "return_dict": False}
        token_ids = self._encode(self._tokenizer.apply_chat_template(marked, **plain))
        return {"input_ids": token_ids} if options.get("return_dict", True) else token_ids

    def _spells_control(self, text: str) -> bool:
        """Return whether the tokenizer may find a control token in a text, which full-width letters may spell too."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        normalizer = None if backend is None else backend.normalizer
        texts = (text,) if normalizer is None else (text, normalizer.normalize_str(text))
        return any(map(self._spelled.search, texts))

    def _marked(self, message: Mapping[str, Any]) -> dict[str, Any]:
        content = message.get("content")
        if not isinstance(content, str):
            return dict(message)
        numbers = {spelling: number for number, spelling in enumerate(self.control)}
        return {**message, "content": self._spelled.sub(lambda found: _mark(numbers[found[0]]), content)}

    def _encode(self, rendered: str) -> list[int]:
        spellings = list(self.control)
        if self._text_reader is None:  # a tokenizer in Python, without a backend that could be copied
            return self._encode_in_parts(_MARK.split(rendered))
        respelled = self._spelled.sub(lambda found: _respelled(self.control[found[0]]), rendered)
        text = _MARK.sub(lambda found: spellings[int(found[1])], respelled)
        read, ids = self._text_reader
        return [ids.get(each, each) for each in read.encode(text, add_special_tokens=False).ids]

    def _encode_in_parts(self, parts: Sequence[str]) -> list[int]:
        """Encode texts, each second of which is the number of a control token that is to be read as text."""
        token_ids: list[int] = []
        for number, part in enumerate(parts):
            is_mark = bool(number % 2)
            text = list(self.control)[int(part)] if is_mark else part
            token_ids += self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=is_mark)
        return token_ids

    @functools.cached_property
    def _text_reader(self) -> tuple[Any, dict[int, int]] | None:
        """The copy of the tokenizer, and the tokenizer's own ids of the tokens that have another one in it."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        return _respelling_copy(backend, self.control)


def control_tokens(tokenizer: Any) -> dict[str, int]:
    """Return spelling -> id of the special tokens, and of other added tokens that the chat template writes."""
    template, special = str(tokenizer.chat_template), set(tokenizer.all_special_ids)
    return {
        token.content: token_id
        for token_id, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.content.strip() and (token.special or token_id in special or token.content in template)
    }


def _respelling_copy(backend: Any, control: Mapping[str, int]) -> tuple[Any, dict[int, int]]:
    """Return a copy of a tokenizer in which the control tokens have no spelling but `_respelled`."""
    from tokenizers import AddedToken, Tokenizer

    content = json.loads(backend.to_str())
    added, content["added_tokens"] = content["added_tokens"], []
    content["truncation"] = content["padding"] = None
    content["model"] = _without_spellings(content["model"], control)
    copy, ids = Tokenizer.from_str(json.dumps(content)), {}
    for token in sorted(added, key=lambda token: token["id"]):
        is_control = token["content"] in control
        spelling = _respelled(token["id"]) if is_control else token["content"]
        edges = {name: token[name] for name in ("single_word", "lstrip", "rstrip")}
        normalized = False if is_control else token["normalized"]
        copy.add_tokens([AddedToken(spelling, normalized=normalized, special=False, **edges)])
        ids[copy.token_to_id(spelling)] = token["id"]
    return copy, ids


def _without_spellings(model: dict[str, Any], control: Mapping[str, int]) -> dict[str, Any]:
    """Respell the control tokens in the model's vocabulary, so that ordinary text cannot be read as one of them."""
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, list):  # Unigram: pieces with scores
        pieces = enumerate(vocabulary)
        model["vocab"] = [[_respelled(n) if piece in control else piece, score] for n, (piece, score) in pieces]
    elif isinstance(vocabulary, dict):
        model["vocab"] = {_respelled(n) if piece in control else piece: n for piece, n in vocabulary.items()}
    if "merges" in model:
        pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [pair for pair in pairs if not {*pair, "".join(pair)} & control.keys()]
    if model.get("unk_token") in control:
        model["unk_token"] = _respelled(control[model["unk_token"]])
    return model
