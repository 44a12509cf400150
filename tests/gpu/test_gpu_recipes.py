"""Every recipe on a machine with GPUs, as far as it goes without one: our checks pass and verl's, and vLLM takes what
verl hands it. Local task files and folders with a config.json stand for what comes from the hub."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("verl", reason="verl is not installed; recipes/setup.sh installs it")
if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed; recipes/setup.sh installs it", allow_module_level=True)

from verl.utils.config import omega_conf_to_dataclass, validate_config
from verl.workers.config import HFModelConfig

from gpu.recipe_launches import GPUS, RECIPES, Launch, find_launches, with_stand_ins
from leafe_verl.environments import alfworld, scienceworld
from leafe_verl.plugin.preflight.memory import describe_memory
from leafe_verl.plugin.preflight.problems import find_problems

NAMES = sorted(path.name for path in RECIPES.glob("*.sh") if path.name != "setup.sh")
SIZES = ("7b", "14b", "32b", "72b", "32b_lora", "72b_lora")
MISSING = {"alfworld": alfworld.missing, "scienceworld": scienceworld.missing}
"""Says what an environment lacks whose extra is not installed, since it is large or needs Java."""
ALL = [*NAMES, *(f"leafe_mbpp.sh size={size}" for size in SIZES)]
QUICK = ("leafe_mbpp.sh", "grpo_mbpp.sh", "leafe_mbpp.sh size=72b_lora")
"""What is looked at without --costly, with which stack.sh looks at all."""
WHAT = [each if each in QUICK else pytest.param(each, marks=pytest.mark.costly) for each in ALL]


@pytest.fixture(params=WHAT)
def launches(request, tmp_path, monkeypatch):
    """Return what a recipe launches, with the overrides behind its name."""
    for name in ("MODEL", "TRAIN_FILES", "VAL_FILES", "RUN_DIR", "METHODS", "SEEDS", "RATES", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    name, *overrides = request.param.split()
    found = find_launches(RECIPES / name, tmp_path / "recipe")
    assert found, f"{name} launches nothing"
    return [Launch(each.config, (*each.overrides, *overrides)) for each in found]


def test_our_checks_and_verls_pass(launches, tmp_path, record_property, monkeypatch):
    # The disk here may be small.
    monkeypatch.setattr("leafe_verl.plugin.preflight.problems.room_problems", lambda config: [])
    for launch in launches:
        config = with_stand_ins(launch, tmp_path)
        validate_config(config, use_reference_policy=False, use_critic=False)
        problems = find_problems(config)
        missing = MISSING.get(config.leafe.environment.name, lambda: None)()
        if missing and problems == [missing]:
            pytest.skip(f"all but the tasks passed: {missing}")
        assert problems == [], launch
        assert "does not fit" not in describe_memory(config), launch
    kinds = Counter(each.config for each in launches)
    said = ", ".join(f"{name} x {number}" if number > 1 else name for name, number in kinds.items())
    model, nodes = Path(config.actor_rollout_ref.model.path).name, config.trainer.nnodes
    record_property("found", f"{said} with Qwen2.5-{model.upper()}, {nodes * GPUS} GPUs")


@pytest.fixture
def a_gpu(monkeypatch):
    """vLLM's CUDA build asks what it runs on before it reads its arguments."""
    from vllm.platforms import current_platform

    if not current_platform.device_type:
        monkeypatch.setattr(current_platform, "device_type", "cuda")


@pytest.fixture
def own_logging():
    """verl's server lets the process log errors alone, which other tests of this process must not notice."""
    levels = {each: each.level for each in (logging.root, *logging.root.handlers)}
    yield
    for each, level in levels.items():
        each.setLevel(level)


def test_vllm_takes_what_verl_hands_it(launches, tmp_path, a_gpu, own_logging):
    from vllm.engine.arg_utils import AsyncEngineArgs

    for launch in launches:
        role = with_stand_ins(launch, tmp_path).actor_rollout_ref
        found = AsyncEngineArgs.from_cli_args(_engine_arguments(role.rollout, role.model))
        assert found.tensor_parallel_size == role.rollout.tensor_model_parallel_size
        assert (found.max_num_seqs, found.dtype) == (role.rollout.max_num_seqs, role.rollout.dtype)


def _engine_arguments(rollout, model):
    """Return the arguments that verl's server would start vLLM with."""
    from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer

    class Server(vLLMHttpServer):
        def __init__(self):
            self.config = omega_conf_to_dataclass(rollout)
            self.model_config = omega_conf_to_dataclass(model, dataclass_type=HFModelConfig)
            self.node_rank = self.replica_rank = 0
            self.gpus_per_node, self.nnodes = self.config.tensor_model_parallel_size, 1
            self.profiler_controller = SimpleNamespace(check_enable=lambda: False)
            self._disaggregation_role = "null"
            self._validate_configs()

        async def run_server(self, arguments):
            self.arguments = arguments

    server = Server()
    asyncio.run(server.launch_server())
    return server.arguments
