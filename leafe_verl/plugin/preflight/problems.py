"""Refusing bad input before Ray starts, all of it at once."""

from __future__ import annotations

import math
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from verl.utils.tokenizer.continuous_token_wiring import list_continuous_token_builder_families

from leafe_verl.core import Settings
from leafe_verl.core.settings import EnvironmentSettings, SettingsError
from leafe_verl.core.text import describe_error
from leafe_verl.environments import make
from leafe_verl.environments.tool_calls import CallReader, find_calls
from leafe_verl.plugin.precision import precision_problems
from leafe_verl.plugin.preflight.chat import ask_configured, chat_problems
from leafe_verl.plugin.preflight.engine import engine_problems
from leafe_verl.plugin.preflight.machine import machine_problems, room_problems
from leafe_verl.plugin.preflight.memory import memory_problems
from leafe_verl.plugin.preflight.model import model_problems
from leafe_verl.plugin.preflight.store import store_problems
from leafe_verl.plugin.preflight.training import training_problems
from leafe_verl.plugin.rollout.chat_format import TEMPLATE
from leafe_verl.plugin.rollout.playbook_file import read_playbook, writes_playbook
from leafe_verl.plugin.settings import RunSettings
from leafe_verl.plugin.sizes import SEQUENCE_PARALLEL, model_window, sequence_parallel_size
from leafe_verl.task_files import HUB, list_sources, read_tasks
from leafe_verl.versions import TESTED_VERL, VERL, takes_verl

PACKAGE = Path(__file__).parents[1]


def find_problems(config: DictConfig) -> list[str]:
    """Return everything that would stop or spoil the run: what came, what was expected, which setting to change."""
    problems = _verl_problems(version("verl"))
    problems += model_problems(config.actor_rollout_ref.model.path)
    problems += [] if config.trainer.val_only else _batch_problems(config)
    problems += engine_problems(config)
    problems += [] if config.trainer.val_only else [*precision_problems(config), *training_problems(config)]
    values: Any = OmegaConf.to_container(config.leafe, resolve=True)
    try:
        settings = RunSettings.from_mapping(values)
    except SettingsError as error:
        problems += error.problems
    else:
        problems += _playbook_problems(settings.playbook.path, writes_playbook(config))
        problems += _window_problems(config, settings)
        problems += _context_problems(config, settings)
        problems += [] if config.trainer.val_only else _curriculum_problems(config, settings)
        problems += _chat_problems(config, settings) or _token_problems(config, settings)
    # A run without a model is refused anyway, and what is on the hub takes a while.
    with_hub = not model_problems(config.actor_rollout_ref.model.path)
    problems += _environment_problems(values.get("environment"), config, with_hub)
    # How long an attempt becomes is known of a run alone that is valid otherwise.
    return problems or [*_budget_problems(config, settings), *find_machine_problems(config)]


def find_machine_problems(config: DictConfig) -> list[str]:
    """Return what this machine lacks for a run of valid settings."""
    settings = RunSettings.from_config(config)
    room = room_problems(config) if settings.memory.refuse else []
    return [*machine_problems(config), *memory_problems(config, settings), *room]


def _environment_problems(section: Any, config: DictConfig, with_hub: bool) -> list[str]:
    """Try the environment and read its tasks, whether or not the settings of other sections are valid."""
    try:
        environment = RunSettings.from_mapping({"environment": section}).environment
    except SettingsError:  # reported with the other settings
        return []
    try:
        make(environment.name, **environment.options).close()
    except Exception as error:
        return [_describe_failure(environment, error)]
    return _data_problems(config, environment.name, with_hub)


def _describe_failure(environment: EnvironmentSettings, error: Exception) -> str:
    """Say why an environment cannot be made. Our own refusals name the setting; what else is raised may say nothing."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, ValueError | ModuleNotFoundError) and Path(place.filename).is_relative_to(PACKAGE):
        return str(error)
    return (
        f"leafe.environment.name={environment.name} cannot be made with leafe.environment.options="
        f"{environment.options}: {describe_error(error)}"
    )


def _verl_problems(installed: str) -> list[str]:
    if takes_verl(installed):
        return []
    return [
        f"verl {installed} is installed, and this plugin takes verl{VERL}: pip install verl=={TESTED_VERL}, or read "
        "'A new version of verl or vLLM' in leafe_verl/plugin/README.md"
    ]


def _playbook_problems(path: str | None, written: bool) -> list[str]:
    if written and not path:
        return ["leafe.playbook.path is null; expected the file that ACE's advice goes to"]
    try:
        read_playbook(path, begins_empty=written)
    except ValueError as error:
        return [str(error)]
    return []


def _batch_problems(config: DictConfig) -> list[str]:
    actor, rollout, data = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout, config.data
    problems = []
    for key, value in {
        "data.train_batch_size": data.train_batch_size,
        "actor_rollout_ref.actor.ppo_mini_batch_size": actor.ppo_mini_batch_size,
        "actor_rollout_ref.actor.ppo_epochs": actor.ppo_epochs,
        "actor_rollout_ref.rollout.n": rollout.n,
        "trainer.n_gpus_per_node": config.trainer.n_gpus_per_node,
    }.items():
        if not isinstance(value, int) or value < 1:
            problems.append(f"{key} is {value!r}; expected an integer of at least 1")
    if problems:
        return problems
    ranks, size = config.trainer.n_gpus_per_node * config.trainer.nnodes, sequence_parallel_size(config)
    mini_batch = actor.ppo_mini_batch_size * rollout.n
    if ranks % size:
        problems.append(
            f"{SEQUENCE_PARALLEL} is {size}, which does not divide {ranks} ranks (trainer.nnodes x "
            "trainer.n_gpus_per_node); expected a divisor of them"
        )
    elif mini_batch % (ranks := ranks // size):
        problems.append(
            f"a mini-batch of {mini_batch} sequences (actor_rollout_ref.actor.ppo_mini_batch_size "
            f"{actor.ppo_mini_batch_size} x rollout.n {rollout.n}) cannot be divided by {ranks} data-parallel ranks; "
            "change actor_rollout_ref.actor.ppo_mini_batch_size or trainer.n_gpus_per_node"
        )
    return problems + _micro_batch_problems(config)


def _micro_batch_problems(config: DictConfig) -> list[str]:
    """A sequence that is longer than a micro-batch would end the run while it trains, when everything is explored."""
    actor, window = config.actor_rollout_ref.actor, model_window(config)
    size = sequence_parallel_size(config)
    most = actor.ppo_max_token_len_per_gpu * size
    if not actor.use_dynamic_bsz or window <= most or config.trainer.v1.trainer_mode == "ace":
        return []
    return [
        f"an example may have {window} tokens (data.max_prompt_length + data.max_response_length, or "
        f"rollout.max_model_len), and a micro-batch holds at most {most}; expected at least "
        f"{math.ceil(window / size)} in actor_rollout_ref.actor.ppo_max_token_len_per_gpu, or a smaller window"
    ]


def _window_problems(config: DictConfig, settings: Settings) -> list[str]:
    window = model_window(config)
    thoughts = settings.generation.thought_tokens or 0
    needed = thoughts + max(settings.generation.max_tokens, settings.reflection.max_tokens)
    if needed < window:
        return []
    keys = "leafe.generation.max_tokens, leafe.reflection.max_tokens"
    return [
        f"turns of up to {needed} tokens ({keys}{', leafe.generation.thought_tokens' * bool(thoughts)}) do not fit a "
        f"window of {window}; raise data.max_response_length or rollout.max_model_len"
    ]


def _context_problems(config: DictConfig, settings: Settings) -> list[str]:
    """Only with GRPO's estimator verl takes the several sequences of an attempt for one member of its group."""
    estimator = config.algorithm.adv_estimator
    if settings.context.window is None or config.trainer.v1.trainer_mode != "grpo" or estimator == "grpo":
        return []
    return [
        f"leafe.context.window is {settings.context.window}, which makes several sequences of an attempt, and "
        f"algorithm.adv_estimator is {estimator!r}; expected grpo, or leafe.context.window=null"
    ]


def _budget_problems(config: DictConfig, settings: RunSettings) -> list[str]:
    """Without the steps of one attempt no tree would begin."""
    environment, steps = settings.environment, settings.exploration_budget.environment_steps
    if steps is None or config.trainer.v1.trainer_mode == "grpo":
        return []
    tried = make(environment.name, **environment.options)
    tried.close()
    horizon = environment.horizon or tried.horizon
    if steps >= horizon:
        return []
    kept = settings.distillation.max_recovery_targets
    return [
        f"leafe.budget.environment_steps is {settings.budget.environment_steps}, of which {kept} are kept for recovery "
        f"targets; expected at least {horizon + kept}, since an attempt may take {horizon} (leafe.environment.horizon)"
    ]


def _curriculum_problems(config: DictConfig, settings: RunSettings) -> list[str]:
    """What is known of tasks comes from the trees that a run keeps, and an order that is asked for is kept."""
    floor, mode, store = settings.curriculum.floor, config.trainer.v1.trainer_mode, settings.collection.store
    if floor is None:
        return []
    said, otherwise = f"leafe.curriculum.floor is {floor:g}", "or leafe.curriculum.floor=null"
    problems = []
    if mode != "leafe":
        problems.append(
            f"{said}, and trainer.v1.trainer_mode is {mode!r}, which keeps no trees; expected leafe, {otherwise}"
        )
    elif not store:
        problems.append(f"{said}, and no trees are kept; expected a folder in leafe.collection.store, {otherwise}")
    if not config.data.shuffle:
        problems.append(
            f"{said}, and data.shuffle is false, which keeps the order of the files; expected true, {otherwise}"
        )
    return problems


def _chat_problems(config: DictConfig, settings: Settings) -> list[str]:
    """Ask the model how it is talked to, if there is one, and whether it takes the environment's tools."""
    family = settings.generation.chat_family
    families = (*list_continuous_token_builder_families(), TEMPLATE)
    if family is not None and family not in families:
        return [f"leafe.generation.chat_family is {family!r}; expected null or one of {', '.join(families)}"]
    if model_problems(config.actor_rollout_ref.model.path):
        return []
    return chat_problems(config, family, _find_calls(settings))


def _find_calls(settings: Settings) -> CallReader | None:
    try:
        return find_calls(settings.environment.name, settings.environment.options)
    except Exception:  # of any kind, which is reported with the environment
        return None


def _token_problems(config: DictConfig, settings: Settings) -> list[str]:
    """Return what the tokens of a model that can be talked to spoil."""
    problems = _thought_problems(config, settings)
    if not config.trainer.val_only and not model_problems(config.actor_rollout_ref.model.path):
        problems += store_problems(config, settings.generation.chat_family)
    return problems


def _thought_problems(config: DictConfig, settings: Settings) -> list[str]:
    """Without the thoughts of earlier turns a prompt does not continue the one before it and its action."""
    generation, path = settings.generation, config.actor_rollout_ref.model.path
    chat = None if model_problems(path) else ask_configured(config, generation.chat_family)
    if chat is None or not chat.drops_thoughts(generation.earlier_thoughts):
        return []
    said = "prompts leave out the thoughts of earlier turns, as leafe.generation.earlier_thoughts or the template says"
    estimator = config.algorithm.adv_estimator
    if settings.distillation.method == "early_experience" and config.trainer.v1.trainer_mode != "grpo":
        return [
            f"{said}, and leafe.distillation.method is 'early_experience', which predicts what follows a whole turn; "
            "expected leafe.generation.earlier_thoughts=keep"
        ]
    if config.trainer.v1.trainer_mode == "grpo" and estimator != "grpo":
        return [
            f"{said}, which makes several sequences of an attempt, and algorithm.adv_estimator is {estimator!r}; "
            "expected grpo, or leafe.generation.earlier_thoughts=keep"
        ]
    return []


def _data_problems(config: DictConfig, environment: str, with_hub: bool) -> list[str]:
    """Read the task files, those on the hub only if `with_hub`."""
    data = config.data
    if data.get("given"):  # the tasks are those of the given histories, and no file is read
        return []
    problems = []
    for key in ("train_files", "val_files"):
        sources = list_sources(data[key])
        sizes: list[int] = []
        known: set[str] = set()
        for source in sources:
            if source is None:
                problems.append(f"data.{key} names no file; expected the tasks: set {key.upper()}=tasks.jsonl")
                continue
            if str(source).startswith(HUB) and not with_hub:
                continue
            try:
                keys = {task.key for task in read_tasks(str(source), environment, data.several_answers)}
            except Exception as error:
                problems.append(f"data.{key}: {error}")
                continue
            if key == "train_files" and (again := sorted(keys & known)):
                problems.append(
                    f"data.{key}: {source} and a file before it both have tasks of the key {again[0]!r} ({len(again)} "
                    "in all); expected a task_id in each row that no other row of these files has"
                )
            known |= keys
            sizes.append(len(keys))
        if key == "train_files" and len(sizes) == len(sources):
            problems += _too_few_tasks(config, sum(sizes))
    return problems


def _too_few_tasks(config: DictConfig, tasks: int) -> list[str]:
    """verl makes no batch of fewer tasks. With `collect=all` the trainer sets the size of the only one."""
    most, batch = config.data.get("train_max_samples", -1), config.data.train_batch_size
    if config.trainer.v1.trainer_mode == "leafe" and config.leafe.schedule.collect == "all":
        return []
    if 0 < most < min(tasks, batch):
        return [f"data.train_max_samples is {most}, fewer than one batch of data.train_batch_size {batch}"]
    if tasks < batch:
        return [
            f"data.train_files hold {tasks} tasks, fewer than one batch of data.train_batch_size {batch}; expected "
            f"more tasks, or data.train_batch_size={tasks}"
        ]
    return []
