"""Refuses settings of verl's training that our trainers would not use, or not in the way that they say, and checkpoints
that verl would not find."""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from leafe_verl.checkpoints import STEP, is_whole, resumed_step

_HOLD = (
    "; LEAFE holds the policy where it was with leafe.distillation.hold_share above 0 and "
    "leafe.distillation.hold_loss=kl, without a reference model"
)
IGNORED = {
    "actor_rollout_ref.actor.use_kl_loss": (False, _HOLD),
    "algorithm.use_kl_in_reward": (False, _HOLD),
    "actor_rollout_ref.actor.entropy_coeff": (0, _HOLD),
    "actor_rollout_ref.actor.loss_agg_mode": (
        "token-mean",
        "; LEAFE's terms are averaged as leafe.distillation.loss_agg_mode says",
    ),
    "critic.enable": (False, "; there is no critic"),
    "trainer.critic_warmup": (0, "; there is no critic, and the steps before it would explore and train nothing"),
    "distillation.enabled": (
        False,
        "; LEAFE's own teachers are leafe.distillation.loss, recovery_loss or hold_loss=kl",
    ),
}
"""verl's settings of the loss that GRPO alone uses, with their defaults, and what LEAFE has in their place."""


FILTERS = ("algorithm.filter_groups.enable", "trainer.v1.sampler.sync_refill_failed_groups")
"""verl's settings that sample further groups in the place of some."""
RESUME_MODES = ("auto", "disable", "resume_path")
OURS = "pkg://leafe_verl.plugin.rollout"
REWARD_PATHS = ("reward.custom_reward_function.path", "custom_reward_function.path")


def training_problems(config: DictConfig) -> list[str]:
    """Return what is wrong with how verl is asked to train: what came, what was expected, and the setting."""
    checks = (
        _loss_problems,
        _filter_problems,
        _reward_problems,
        _data_problems,
        _schedule_problems,
        _resume_problems,
        _validation_problems,
    )
    return [problem for check in checks for problem in check(config)]


def _validation_problems(config: DictConfig) -> list[str]:
    """verl's rollout worker reads the temperature alone, which verl's own configuration has at 0 (agent_loop_tq.py)."""
    sampling = config.actor_rollout_ref.rollout.val_kwargs
    if sampling.do_sample or not sampling.temperature:
        return []
    key = "actor_rollout_ref.rollout.val_kwargs"
    return [
        f"{key}.do_sample is false, which verl does not read, and {key}.temperature is {sampling.temperature}; "
        f"expected {key}.temperature=0 for greedy decoding, or do_sample=true"
    ]


def _loss_problems(config: DictConfig) -> list[str]:
    """With a KL term verl would keep a frozen model and ask it for log-probabilities in each step, for nothing."""
    mode = config.trainer.v1.trainer_mode
    if mode == "grpo":
        return []
    found = {key: OmegaConf.select(config, key) for key in IGNORED}
    if found["critic.enable"] is None and config.algorithm.adv_estimator == "gae":
        return [
            f"algorithm.adv_estimator is 'gae', for which verl would train a critic; {mode} has none: expected grpo"
        ]
    return [
        f"{key} is {json.dumps(value)}, which trainer.v1.trainer_mode {mode!r} does not use; expected "
        f"{json.dumps(IGNORED[key][0])}{IGNORED[key][1] if mode == 'leafe' else ''}"
        for key, value in found.items()
        if value not in (None, IGNORED[key][0])
    ]


def _filter_problems(config: DictConfig) -> list[str]:
    """verl gives these settings to its own sampler alone, and not to one that `custom_sampler` names, as ours is."""
    return [
        f"{key} is true, which the sampler of leafe-verl does not do; expected false"
        for key in FILTERS
        if OmegaConf.select(config, key)
    ]


def _reward_problems(config: DictConfig) -> list[str]:
    """Rewards are those of the environment's steps, in every mode."""
    found = {key: OmegaConf.select(config, key) for key in REWARD_PATHS}
    return [
        f"{key} is {path}, and every reward comes from the environment; expected null, and an environment of yours "
        "that gives these rewards, or leafe.environment.name=verl_tools with +leafe.environment.options.reward_path"
        for key, path in found.items()
        if path
    ]


TOOLS = "leafe.environment.name=verl_tools has +leafe.environment.options"
REWARDS = "every reward comes from the environment, and its own function may ask a model or a sandbox"
UNUSED = {
    "data.filter_overlong_prompts": (
        False,
        "an attempt whose prompt leaves no room for its first turn is unscored, as context_overflow",
    ),
    "data.prompt_key": ("prompt", "the environment reads the rows"),
    "data.image_key": ("images", "texts alone are shown"),
    "data.video_key": ("videos", "texts alone are shown"),
    "actor_rollout_ref.rollout.multi_turn.tool_config_path": (None, f"{TOOLS}.tool_config_path"),
    "actor_rollout_ref.rollout.multi_turn.function_tool_path": (None, f"{TOOLS}.function_tool_path"),
    "actor_rollout_ref.rollout.multi_turn.format": ("hermes", f"{TOOLS}.form"),
    "actor_rollout_ref.rollout.multi_turn.max_assistant_turns": (None, "leafe.environment.horizon limits the turns"),
    "actor_rollout_ref.rollout.multi_turn.max_user_turns": (None, "leafe.environment.horizon limits the turns"),
    "actor_rollout_ref.rollout.multi_turn.max_parallel_calls": (1, "all calls of an answer are executed"),
    "actor_rollout_ref.rollout.multi_turn.max_tool_response_length": (256, "what a tool says is shown whole"),
    "reward.reward_model.enable": (False, REWARDS),
    "reward.sandbox_fusion.url": (None, REWARDS),
    "reward.reward_manager.source": ("register", REWARDS),
    "reward.reward_manager.name": ("naive", REWARDS),
}
"""verl's settings that our task files, agent loops and environments do not use, with verl's defaults, and what there is
in their place."""


def _data_problems(config: DictConfig) -> list[str]:
    """Tasks come from our data set, tools and rewards from the environment, in every mode."""
    found = {key: OmegaConf.select(config, key) for key in UNUSED}
    problems = [
        f"{key} is {value}, which is not used here; expected {json.dumps(UNUSED[key][0])}: {UNUSED[key][1]}"
        for key, value in found.items()
        if value not in (None, UNUSED[key][0])
    ]
    custom = config.data.custom_cls
    if not str(custom.path).startswith(OURS):
        problems.append(
            f"data.custom_cls.path is {custom.path}, a data set whose rows carry no task; expected {OURS}.dataset, and "
            "data.train_files and val_files with rows of the environment (leafe.environment.name)"
        )
    return problems


def _resume_problems(config: DictConfig) -> list[str]:
    """verl finds out that there is no such mode or checkpoint once every process has started."""
    trainer = config.trainer
    if trainer.resume_mode not in RESUME_MODES:
        return [f"trainer.resume_mode is {trainer.resume_mode!r}; expected one of {', '.join(RESUME_MODES)}"]
    if trainer.resume_mode == "disable":
        return []
    if trainer.resume_mode == "auto":
        checkpoints = Path(trainer.default_local_dir)
        step = resumed_step(checkpoints)
        return [] if step is None else _rank_problems(config, checkpoints / f"{STEP}{step}")
    given = trainer.resume_from_path
    if not (given and Path(given).name.removeprefix(STEP).isdecimal() and is_whole(Path(given))):
        return [
            f"trainer.resume_from_path is {given}, which is no whole checkpoint of a run; expected "
            f"RUN_DIR/checkpoints/{STEP}N, or trainer.resume_mode=auto"
        ]
    return _rank_problems(config, Path(given))


def _rank_problems(config: DictConfig, checkpoint: Path) -> list[str]:
    """verl names the shards of a checkpoint by the number of ranks, and finds those of its own number alone."""
    wrote, ranks = _num_ranks(checkpoint), config.trainer.nnodes * config.trainer.n_gpus_per_node
    if wrote in (None, ranks):
        return []
    return [
        f"the checkpoint {checkpoint} is of {wrote} ranks, and this run has {ranks} "
        f"(trainer.nnodes x trainer.n_gpus_per_node); expected {wrote}, or another RUN_DIR with MODEL={checkpoint}, "
        "which begins with that checkpoint's weights"
    ]


def _num_ranks(checkpoint: Path) -> int | None:
    """Return how many ranks wrote a checkpoint of FSDP; None if that is not known."""
    try:
        found = json.loads((checkpoint / "actor" / "fsdp_config.json").read_text(encoding="utf-8"))["world_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return int(found)


def _schedule_problems(config: DictConfig) -> list[str]:
    """Over one training step, only FSDP's schedule of the learning rate can be sized anew by its optimiser steps."""
    actor, collect = config.actor_rollout_ref.actor, config.leafe.schedule.collect
    if config.trainer.v1.trainer_mode != "leafe" or collect != "all" or actor.strategy in ("fsdp", "fsdp2"):
        return []
    warm_up = {name: actor.optim.get(name) for name in ("lr_warmup_steps", "lr_warmup_steps_ratio")}
    kind = {name: actor.optim.get(name) for name in ("lr_scheduler_type", "lr_decay_style")}
    found = {name: value for name, value in warm_up.items() if value and value > 0}
    found |= {name: value for name, value in kind.items() if value not in (None, "constant")}
    return [
        f"actor_rollout_ref.actor.optim.{name} is {value}, and leafe.schedule.collect is 'all': the schedule would be "
        f"over one training step with actor.strategy {actor.strategy!r}; expected a constant learning rate without "
        "warm-up, actor_rollout_ref.actor.strategy=fsdp2 or fsdp, or leafe.schedule.collect=batch"
        for name, value in found.items()
    ]
