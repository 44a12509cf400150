"""What of verl, vLLM, transformers and Ray we lean on is there, in the form that plugin/README.md says.

A failure here after an upgrade names the place to read again.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytest.importorskip("verl", reason="verl is not installed; recipes/setup.sh installs it")
pytest.importorskip("vllm", reason="vllm is not installed; recipes/setup.sh installs it")

import verl
import verl.trainer.ppo.v1  # registers our trainers, as in a run
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

from leafe_verl.plugin.rollout import dataset, episode_loops, explore_loops, inference_servers, replay_buffer
from leafe_verl.plugin.rollout import rollout_worker as workers
from leafe_verl.plugin.training import (
    ace_trainer,
    checkpointing_trainer,
    episode_trainer,
    leafe_trainer,
    prefix_engine,
    sft_worker,
)

VERL = Path(verl.__file__).parent
OVERRIDING = {
    checkpointing_trainer.CheckpointingTrainer: "_init_dataloader _load_checkpoint on_train_begin step "
    "_save_checkpoint _validate",
    episode_trainer.EpisodeTrainer: "_setup get_llm_client _load_checkpoint on_init_end on_step_end on_validate_begin "
    "on_sample_begin on_sample_end _init_resource_pool_mgr _val_metrics_update",
    episode_trainer.GRPOTrainer: "_balance_batch",
    leafe_trainer.CollectingTrainer: "_compute_old_log_prob _compute_advantage _compute_metrics",
    leafe_trainer.LeafeTrainer: "_balance_batch _update_actor _save_checkpoint _init_dataloader",
    ace_trainer.ACETrainer: "_balance_batch _update_actor",
    sft_worker.SFTTrainingWorker: "train_batch",
    sft_worker.PolicyWorker: "init_model update_weights",
    prefix_engine.PrefixTreeEngine: "_build_module forward_backward_batch prepare_model_inputs prepare_model_outputs",
    workers.RolloutWorker: "_run_prompt",
    workers.RolloutManager: "generate_sequences",
    inference_servers.RetryingClient: "generate",
    replay_buffer.ProgressReplayBuffer: "sample _wait_for_next_poll",
    dataset.TaskDataset: "_download _read_files_and_tokenize",
    episode_loops.EpisodeLoop: "run",
    explore_loops.ExploreLoop: "run",
}
HOOKS = [(ours, hook) for ours, hooks in OVERRIDING.items() for hook in hooks.split()]


@pytest.mark.parametrize("ours, hook", HOOKS, ids=lambda each: getattr(each, "__name__", each))
def test_a_hook_that_we_override_takes_what_verl_gives_it(ours, hook):
    theirs = next(getattr(base, hook) for base in ours.__mro__[1:] if hook in vars(base) and _is_verls(base))
    expected, given = _names(theirs), _names(getattr(ours, hook))
    open_ended = any(
        each.kind is each.VAR_KEYWORD for each in inspect.signature(getattr(ours, hook)).parameters.values()
    )
    assert given == expected[: len(given)]
    assert open_ended or len(given) == len(expected)


def _names(function: Callable[..., object]) -> list[str]:
    """Names of the parameters, without **kwargs and without what Ray adds."""
    parameters = inspect.signature(function).parameters.items()
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [name for name, each in parameters if each.kind not in kinds and name != "_ray_trace_ctx"]


def _is_verls(base: type) -> bool:
    return base.__module__.startswith("verl.")


@pytest.mark.parametrize(
    "file, text",
    [
        ("workers/rollout/router.py", inference_servers.NO_SERVERS),
        ("trainer/ppo/v1/replay_buffer.py", replay_buffer.NOTHING_COLLECTED),
        ("trainer/ppo/v1/trainer_base.py", "latest_checkpointed_iteration.txt"),
        ("trainer/ppo/v1/trainer_base.py", '"data.pt"'),
        ("trainer/ppo/v1/trainer_base.py", "global_step_"),
        ("trainer/ppo/v1/trainer_base.py", 'self.trainer_mode == "sync"'),
        ("trainer/ppo/v1/trainer_base.py", "_query_dispatch_info"),
        ("trainer/ppo/v1/trainer_base.py", '"__rollout_n__"'),
        ("trainer/ppo/v1/agent_loop_tq.py", '"__rollout_n__"'),
        ("trainer/ppo/v1/agent_loop_tq.py", '"min_global_steps"'),
        ("trainer/ppo/v1/agent_loop_tq.py", '"reward_extra_info"'),
        ("utils/checkpoint/fsdp_checkpoint_manager.py", "fsdp_config.json"),
        ("experimental/agent_loop/agent_loop.py", "server_manager=self.llm_client"),
        ("workers/rollout/vllm_rollout/vllm_async_server.py", "VLLM_BATCH_INVARIANT"),
        ("trainer/main_ppo.py", 'ray_init_kwargs.get("runtime_env"'),
        ("workers/engine_workers.py", "dataloader_kwargs"),
        ("__init__.py", "verl.plugins"),
    ],
)
def test_verl_still_says_what_we_match(file, text):
    assert text in (VERL / file).read_text(), f"read {file} again"


def test_ray_keeps_the_class_that_an_actor_was_made_from():
    from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

    assert inspect.isclass(AgentLoopWorkerTQ.__ray_metadata__.modified_class)


@pytest.mark.parametrize("name", ["finished_keys", "failure_keys", "pending_keys", "running_keys", "poll_interval"])
def test_the_replay_buffer_keeps_its_books(name):
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

    assert f"self.{name}" in inspect.getsource(ReplayBuffer)


@pytest.mark.parametrize(
    "name", ["rollout_replicas", "server_handles", "server_addresses", "global_load_balancer", "get_replicas"]
)
def test_the_server_manager_has_its_servers(name):
    from verl.workers.rollout.llm_server import LLMServerManager

    assert name in inspect.getsource(LLMServerManager)


def test_verl_registers_engines_by_model_type_backend_and_device():
    from verl.workers.engine import EngineRegistry

    assert {"fsdp", "fsdp2"} <= set(EngineRegistry._engines["language_model"])
    assert {"cpu", "cuda"} <= set(EngineRegistry._engines[prefix_engine.MODEL_TYPE]["fsdp2"])


def test_our_platform_and_trainers_are_registered():
    from verl.plugin.platform import PlatformRegistry, get_platform

    assert "cpu" in str(vars(PlatformRegistry)) and get_platform().device_name in ("cpu", "cuda")
    assert {"leafe", "grpo", "ace", "evaluate"} <= set(TRAINER_REGISTRY)


def test_the_entry_points_load():
    for group, name in (("verl.plugins", "leafe_verl"), ("vllm.general_plugins", "leafe_verl")):
        (found,) = [each for each in entry_points(group=group) if each.name == name]
        assert found.load()


def test_vllm_still_packs_linear_weights_and_drops_them():
    """The patch of cpu/vllm_build.py replaces the function where linear.py looks it up, when it is called."""
    from vllm.model_executor.layers import linear, utils

    packing = inspect.unwrap(utils.dispatch_cpu_unquantized_gemm)
    assert list(inspect.signature(packing).parameters) == ["layer", "remove_weight"]
    source = inspect.getsource(linear)
    assert "import dispatch_cpu_unquantized_gemm\n\n            dispatch_cpu_unquantized_gemm(" in source


def test_vllms_engine_says_that_it_is_dead():
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.exceptions import EngineDeadError

    assert EngineDeadError.__name__ == "EngineDeadError" and isinstance(AsyncLLM.errored, property)


def test_transformers_takes_attention_functions_by_name():
    from transformers import AttentionInterface, PretrainedConfig

    assert "leafe_prefix_tree" in AttentionInterface()
    assert hasattr(PretrainedConfig(), "_attn_implementation")


def test_ray_calls_the_hook_of_runtime_environments():

    assert "RAY_RUNTIME_ENV_HOOK" in inspect.getsource(sys.modules["ray._private.worker"])


def test_the_distribution_vllm_is_found_where_the_cpu_build_is_installed():
    asked = "import verl; from importlib.metadata import version; print(version('vllm'))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
