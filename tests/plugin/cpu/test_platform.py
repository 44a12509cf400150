"""The number format and the cores that training uses on a CPU."""

import os

import pytest

pytest.importorskip("verl", reason="verl is not installed; recipes/setup.sh installs it")

from hydra import compose, initialize_config_module

from leafe_verl.plugin.cpu import platform
from leafe_verl.plugin.cpu.platform import cpu_dtype


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags\t\t: fma avx2 avx512f avx512_bf16 avx512_vnni", "bfloat16"),
        ("flags\t\t: avx2 avx512f amx_bf16", "bfloat16"),
        ("Features\t: asimd i8mm bf16", "bfloat16"),
        ("flags\t\t: fma avx2 avx512f", "float32"),
    ],
)
def test_bfloat16_only_where_the_processor_computes_in_it(tmp_path, flags, expected):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{flags}\n")
    assert cpu_dtype(cpuinfo) == expected


def test_a_system_that_does_not_tell_is_given_float32(tmp_path):
    assert cpu_dtype(tmp_path / "cpuinfo") == "float32"


@pytest.mark.parametrize(
    ("variables", "threads"),
    [
        ({}, 8),
        ({"WORLD_SIZE": "2"}, 4),
        # As in a worker of verl on a machine with two ranks of four.
        ({"RAY_LOCAL_WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "4"}, 4),
        ({"RAY_LOCAL_WORLD_SIZE": "16"}, 1),
    ],
)
def test_the_ranks_of_a_machine_share_its_cores(monkeypatch, variables, threads):
    for name in ("RAY_LOCAL_WORLD_SIZE", "LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    found = []
    monkeypatch.setattr(platform.torch, "set_num_threads", found.append)
    platform.share_cores()
    assert found == [threads]


@pytest.mark.parametrize("name", ["leafe", "grpo", "ace", "early_experience", "evaluate"])
def test_sampling_and_training_compute_in_the_same(name):
    with initialize_config_module("leafe_verl.plugin.config", version_base=None):
        role = compose(name, ["device=cpu"]).actor_rollout_ref
    assert role.rollout.dtype == role.actor.fsdp_config.mixed_precision.param_dtype == cpu_dtype()
