"""One question to the run's own tokenizer and chat template before Ray starts: can turns be told apart, and how?"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from leafe_verl.embedded import model_folder
from leafe_verl.environments.tool_calls import CallReader
from leafe_verl.plugin.rollout.chat_format import ChatFormat, ChatRefused, ask_tokenizer


def chat_problems(config: DictConfig, family: str | None, calls: CallReader | None = None) -> list[str]:
    """Return why the model cannot be talked to in turns; nothing for a model that is not on this machine.

    Args:
        family: `leafe.generation.chat_family`.
        calls: The tools that the chat template must render; None for an environment without tools.
    """
    try:
        chat = ask_configured(config, family)
        if chat and calls:
            chat.require_tools(calls.schemas)
    except ChatRefused as refusal:
        return [f"actor_rollout_ref.model.path {config.actor_rollout_ref.model.path}: {refusal}"]
    return []


def describe_chat(config: DictConfig, family: str | None) -> str:
    """Return what `chat_problems` found out of a model without problems, as a line for the log."""
    found = ask_configured(config, family)
    return f"chat: {found.describe() if found else 'not asked, since the tokenizer is not here'}"


def ask_configured(config: DictConfig, family: str | None) -> ChatFormat | None:
    """Ask the tokenizer as the run's agent loops do. Return None if it is not on this machine. Raises ChatRefused."""
    model = config.actor_rollout_ref.model
    options = OmegaConf.to_container(
        OmegaConf.create(config.data.get("apply_chat_template_kwargs") or {}), resolve=True
    )
    return ask_model(
        str(model.path),
        tokenizer=model.get("tokenizer_path"),
        template=model.get("custom_chat_template"),
        trust_remote_code=bool(model.get("trust_remote_code", False)),
        family=family,
        options=options,  # type: ignore[arg-type]  # a mapping, since that was created from one
    )


def ask_model(
    path: str,
    *,
    tokenizer: str | None = None,
    template: str | None = None,
    trust_remote_code: bool = False,
    family: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> ChatFormat | None:
    """Ask the tokenizer of a folder or of a name on the hub; see `ask_configured`."""
    loaded = _load(path, tokenizer or path, template, trust_remote_code)
    if loaded is None:
        return None
    return ask_tokenizer(loaded[0], family=family, model_type=loaded[1], template_options=options)


@functools.lru_cache(maxsize=2)
def _load(path: str, tokenizer: str, template: str | None, trust_remote_code: bool) -> tuple[Any, str | None] | None:
    """Return the tokenizer and the model's type; None for a hub name that cannot be loaded, which verl reports, and for
    the embedded model before it is made."""
    folder = Path(tokenizer).expanduser()
    if folder == model_folder() and not folder.is_dir():
        return None
    from verl.utils.tokenizer import hf_tokenizer

    try:
        with _without_warnings():
            loaded = hf_tokenizer(str(folder) if folder.is_dir() else tokenizer, trust_remote_code=trust_remote_code)
    except Exception as error:
        if not folder.is_dir():
            return None
        raise ChatRefused(f"its tokenizer cannot be loaded: {type(error).__name__}: {error}") from error
    if template is not None:
        loaded.chat_template = template
    return loaded, _model_type(Path(path).expanduser())


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep what transformers says of a tokenizer off the terminal; the run's own log has it again."""
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _model_type(path: Path) -> str | None:
    if path.is_dir():
        content = json.loads((path / "config.json").read_text(encoding="utf-8"))
    else:
        from transformers import PretrainedConfig

        content, _ = PretrainedConfig.get_config_dict(str(path))
    found = content.get("model_type")
    return found if isinstance(found, str) else None
