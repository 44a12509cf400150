"""The precision of a run is found in its configuration, and what was computed in another one is refused."""

from __future__ import annotations

import pytest

pytest.importorskip("verl", reason="verl is not installed")

from hydra import compose, initialize_config_module

from leafe_verl.checkpoints import TRACKER
from leafe_verl.plugin.cpu.platform import cpu_dtype
from leafe_verl.plugin.precision import describe_mixing, find_precision, precision_problems, record_precision
from leafe_verl.trees import Provenance, TreeWriter
from report.samples import rescued


@pytest.fixture
def config(tmp_path, monkeypatch):
    def build(dtype, *overrides, name="leafe"):
        monkeypatch.setenv("LEAFE_CPU_DTYPE", dtype)
        with initialize_config_module("leafe_verl.plugin.config", version_base=None):
            return compose(name, overrides=["device=cpu", f"run_dir={tmp_path}", *overrides])

    return build


@pytest.mark.parametrize("name", ["leafe", "grpo", "ace", "evaluate"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_one_variable_sets_what_rollout_and_trainer_compute_in(config, name, dtype):
    assert find_precision(config(dtype, name=name)) == dtype


def test_two_precisions_are_both_named(config):
    mixed = config("float32", "actor_rollout_ref.rollout.dtype=bf16")
    assert find_precision(mixed) == "bfloat16 (rollout), float32 (trainer)"


def test_without_a_setting_it_is_verls_own():
    with initialize_config_module("leafe_verl.plugin.config", version_base=None):
        assert find_precision(compose("leafe", overrides=["device=gpu"])) == "bfloat16"


def test_another_name_of_a_precision_is_refused(monkeypatch):
    monkeypatch.setenv("LEAFE_CPU_DTYPE", "bf16")
    with pytest.raises(ValueError, match="LEAFE_CPU_DTYPE is 'bf16'; expected bfloat16 or float32"):
        cpu_dtype()


def test_a_run_with_a_checkpoint_goes_on_in_its_own_precision(config, tmp_path):
    record_precision(config("bfloat16"))
    assert precision_problems(config("float32")) == [], "nothing has been computed yet"
    (tmp_path / "checkpoints" / "global_step_3").mkdir(parents=True)
    (tmp_path / "checkpoints" / TRACKER).write_text("3")
    assert precision_problems(config("bfloat16")) == []
    assert precision_problems(config("float32")) == [describe_mixing(f"the run in {tmp_path}", "bfloat16", "float32")]


@pytest.mark.parametrize(("stored", "refused"), [("bfloat16", True), ("float32", False), (None, False)])
def test_trees_of_another_precision_are_refused(config, tmp_path, stored, refused):
    with TreeWriter(tmp_path / "trees") as writer:
        writer.append(rescued(), Provenance(run="r", step=1, dtype=stored))
    problems = precision_problems(config("float32", f"leafe.collection.store={tmp_path}/trees"))
    assert len(problems) == int(refused)
    if refused:
        assert problems[0].startswith(
            f"a tree in leafe.collection.store={tmp_path}/trees was computed in bfloat16, and"
        )
        assert "LEAFE_CPU_DTYPE=bfloat16" in problems[0]
