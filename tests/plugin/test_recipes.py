"""The recipes: one command each, configurations that compose by themselves, and names that the file system takes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from leafe_verl.environments import BRIDGES, BUILT_IN

RECIPES = Path(__file__).parents[2] / "recipes"
ENVIRONMENTS = sorted({*BUILT_IN} - {*BRIDGES})
"""Environments with recipes. A Gymnasium environment's owner says what it needs."""
ODD_NAMES = ["1", "lr=3e-5", "a, b (c)'s \u00e9", "null", 'back\\slash "quoted"', "[1, 2]"]


@pytest.fixture
def compose(monkeypatch):
    pytest.importorskip("verl", reason="verl is not installed")
    import hydra

    from leafe_verl.plugin import resolvers

    def composed(config, *overrides, **variables):
        resolvers.run_dir.cache_clear()
        for name in ("MODEL", "TRAIN_FILES", "VAL_FILES", "RUN_DIR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with hydra.initialize_config_module("leafe_verl.plugin.config", version_base=None):
            return hydra.compose(config, overrides=list(overrides))

    yield composed
    resolvers.run_dir.cache_clear()


@pytest.mark.parametrize("environment", [*ENVIRONMENTS, "custom"])
def test_leafe_and_grpo_differ_in_the_comment_and_the_name_of_the_configuration(environment):
    leafe, grpo = ((RECIPES / f"{name}_{environment}.sh").read_text().splitlines() for name in ("leafe", "grpo"))
    code = [[line for line in lines if not line.startswith("#")] for lines in (leafe, grpo)]
    differing = [pair for pair in zip(*code, strict=True) if pair[0] != pair[1]]
    assert [(a.replace("--config-name leafe", "--config-name grpo"), b) for a, b in differing] == [
        (differing[0][1],) * 2
    ]
    assert f"environment={environment} " in differing[0][0]


def test_the_mbpp_recipes_differ_in_at_most_three_lines_a_side():
    diff = subprocess.run(["diff", RECIPES / "leafe_mbpp.sh", RECIPES / "grpo_mbpp.sh"], capture_output=True, text=True)
    assert 0 < sum(line.startswith("<") for line in diff.stdout.splitlines()) <= 3
    assert 0 < sum(line.startswith(">") for line in diff.stdout.splitlines()) <= 3


def test_every_script_parses():
    scripts = sorted(RECIPES.glob("*.sh"))
    assert len(scripts) >= 4
    for script in scripts:
        assert subprocess.run(["bash", "-n", script]).returncode == 0, script


def test_a_recipe_runs_verls_launcher_with_the_overrides_it_is_given(tmp_path):
    stub = tmp_path / "python"
    stub.write_text('#!/usr/bin/env bash\ncase "$*" in *main_ppo*) printf \'%s\\n\' "$@" ;; esac\n')
    stub.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", RECIPES / "leafe_sokoban.sh", "trainer.test_freq=3"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == [
        *["verl.trainer.main_ppo", "--config-path", "pkg://leafe_verl.plugin.config", "--config-name", "leafe"],
        *["environment=sokoban", "trainer.test_freq=3"],
    ]


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("config", ["leafe", "grpo", "ace", "early_experience"])
def test_every_configuration_composes_by_itself(compose, config, environment, device):
    composed = compose(config, f"environment={environment}", f"device={device}")
    hub = device == "gpu" and environment in ("mbpp", "codecontests")
    files = [*composed.data.train_files, *composed.data.val_files]
    assert all(source.startswith("hub:") if hub else Path(source).is_file() for source in files)
    assert composed.leafe.environment.name == composed.data.environment == environment
    assert composed.trainer.test_freq is None and composed.trainer.n_gpus_per_node >= 1
    assert composed.run_dir.startswith(f"{Path.cwd()}/runs/{config}_{environment}/")


@pytest.mark.parametrize("config", ["leafe", "grpo"])
def test_an_environment_of_ones_own_has_its_own_horizon_and_the_files_that_are_named(compose, config):
    files = {"TRAIN_FILES": "train.jsonl", "VAL_FILES": "val.jsonl"}
    composed = compose(config, "environment=custom", "device=cpu", "leafe.environment.name=guess:Guess", **files)
    assert (composed.data.train_files, composed.data.val_files) == (["train.jsonl"], ["val.jsonl"])
    assert composed.data.environment == "guess:Guess" and composed.leafe.environment.horizon is None


def test_the_device_is_found_out(compose):
    from leafe_verl.plugin.resolvers import find_device

    assert compose("leafe").trainer.device == {"cpu": "cpu", "gpu": "cuda"}[find_device()]


@pytest.mark.parametrize("config", ["leafe", "grpo", "ace", "early_experience"])
@pytest.mark.parametrize("installed", [True, False])
def test_attention_and_padding_on_gpus_follow_flash_attn(compose, monkeypatch, config, installed):
    from leafe_verl.plugin import resolvers

    monkeypatch.setattr(resolvers, "has_flash_attention", lambda: installed)
    role = compose(config, "device=gpu").actor_rollout_ref
    assert role.model.override_config.attn_implementation == ("flash_attention_2" if installed else "sdpa")
    assert role.model.use_remove_padding is installed
    # With padding a micro-batch filled by tokens would hold many times as many. Prefix trees have none.
    assert role.actor.use_dynamic_bsz is (installed or config != "grpo")
    cpu = compose(config, "device=cpu").actor_rollout_ref
    assert (cpu.model.use_remove_padding, cpu.actor.use_dynamic_bsz) == (False, False)


CHOSEN_FOR_THE_EMBEDDED_MODEL = {
    "leafe.environment.horizon": (2, None),
    "leafe.generation.max_tokens": (64, 256),
    "leafe.reflection.max_tokens": (64, 192),
    "leafe.reflection.max_characters": (120, 400),
    "data.max_response_length": (1024, 2048),
    "data.train_batch_size": (24, 16),
    "trainer.total_training_steps": (3, 2),
    "actor_rollout_ref.model.enable_gradient_checkpointing": (False, True),
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": (4, 2),
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": (4, 2),
    "ray_kwargs.ray_init.runtime_env.env_vars.VLLM_CPU_KVCACHE_SPACE": ("2", "1"),
}
"""Key -> its value for the embedded model without a GPU, and for any other."""
OF_TRAINING = ("data.train_batch_size", "trainer.total_training_steps")


@pytest.mark.parametrize("config", ["leafe", "grpo", "ace", "early_experience", "evaluate"])
def test_what_is_sized_for_the_embedded_model_is_its_own(compose, config, tmp_path):
    from omegaconf import OmegaConf

    from leafe_verl.embedded import SIZES

    checkpoint = tmp_path / "checkpoints" / "global_step_2"
    (checkpoint / "actor" / "huggingface").mkdir(parents=True)
    (checkpoint / "actor" / "huggingface" / "config.json").write_text(json.dumps(SIZES))
    for number, models in enumerate([(None, str(checkpoint)), ("owner/name", "/no/such/folder")]):
        for model in models:
            variables = {"MODEL": model} if model else {}
            composed = compose(config, "device=cpu", "leafe.evaluation.store=there", **variables)
            for key, values in CHOSEN_FOR_THE_EMBEDDED_MODEL.items():
                if config == "evaluate" and key in OF_TRAINING:
                    continue
                if (config, number, key.rpartition(".")[2]) == ("grpo", 1, "ppo_micro_batch_size_per_gpu"):
                    values = (4, 1)  # every token has logits
                assert OmegaConf.select(composed, key) == values[number], (key, model)


@pytest.mark.parametrize("environment, tokens", [("mbpp", 256), ("codecontests", 1024)])
def test_other_models_get_the_real_tasks_and_room_for_answers_without_a_gpu_too(compose, environment, tokens):
    composed = compose("leafe", "device=cpu", f"environment={environment}", MODEL="owner/name")
    sources = [*composed.data.train_files, *composed.data.val_files]
    assert all(source.startswith("hub:") and "embedded" not in source for source in sources)
    assert composed.leafe.generation.max_tokens == tokens
    assert composed.data.max_response_length >= 4 * (tokens + 200), "four turns, and their feedback"
    named = compose("leafe", "device=cpu", f"environment={environment}", MODEL="owner/name", TRAIN_FILES="a.jsonl")
    assert named.data.train_files == ["a.jsonl"] and named.data.val_files[0].startswith("hub:")


def test_what_is_named_wins_over_what_is_chosen(compose):
    given = ["leafe.environment.horizon=3", "leafe.generation.max_tokens=100"]
    composed = compose("leafe", "device=cpu", *given, VLLM_CPU_KVCACHE_SPACE="7")
    assert composed.leafe.environment.horizon == 3 and composed.leafe.generation.max_tokens == 100
    assert composed.ray_kwargs.ray_init.runtime_env.env_vars.VLLM_CPU_KVCACHE_SPACE == "7"


def test_the_bucket_of_weights_holds_the_largest_matrix(compose, tmp_path):
    sizes = {"hidden_size": 2048, "num_attention_heads": 16, "num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps({**sizes, "intermediate_size": 11008, "vocab_size": 151936}))
    checkpoint_engine = compose("leafe", "device=cpu", MODEL=str(tmp_path)).actor_rollout_ref.rollout.checkpoint_engine
    assert checkpoint_engine.update_weights_bucket_megabytes == 151936 * 2048 * 4 // 2**20 + 1
    checkpoint_engine = compose("leafe", "device=cpu", MODEL="owner/name").actor_rollout_ref.rollout.checkpoint_engine
    assert checkpoint_engine.update_weights_bucket_megabytes == 2048, "verl's own, where config.json is not here"


def test_without_a_gpu_a_run_validates_on_a_part_of_the_held_out_tasks(compose):
    samples = [
        compose(name, f"device={device}").data.val_max_samples
        for name in ("leafe", "evaluate")
        for device in ("cpu", "gpu")
    ]
    assert samples == [64, -1, -1, -1]


PAPER = {
    "method": "leafe",
    "events": "every",
    "events_per_task": 3,
    "target": "action",
    "rehearsal_share": 0.2,
    "beta": 1.0,
    "counterfactual_histories": "every",
    "rehearsal": "attempts",
    "recovery_targets": 0,
    "context_mask": 0.0,
    "hold_share": 0.0,
}


@pytest.mark.parametrize(("device", "rate"), [("cpu", 1e-5), ("gpu", 1e-6)])
def test_the_paper_s_method_is_a_preset(compose, device, rate):
    composed = compose("leafe", "preset=paper", f"device={device}")
    distillation = composed.leafe.distillation
    assert {name: distillation[name] for name in PAPER} == PAPER
    actor = composed.actor_rollout_ref.actor
    assert (composed.leafe.reflection.scope, actor.ppo_epochs, actor.optim.lr) == ("step", 2, rate)


def test_the_recommended_preset_is_the_default_and_teaches_to_recover(compose):
    composed = compose("leafe", "device=cpu")
    assert composed == compose("leafe", "device=cpu", "preset=recommended")
    distillation = composed.leafe.distillation
    assert (distillation.recovery_targets, distillation.counterfactual_histories) == (4, "failed")
    assert (distillation.rehearsal, distillation.rehearsal_share) == ("at_once", 1.0)
    assert (distillation.recovery_loss, distillation.hold_share) == ("nll", 0.0), "the embedded model"
    other = compose("leafe", "device=cpu", "actor_rollout_ref.model.path=other/model").leafe.distillation
    assert (other.recovery_loss, other.hold_loss, other.hold_share, other.events) == ("kl", "kl", 0.25, "success")
    actor = composed.actor_rollout_ref.actor
    assert (actor.ppo_epochs, actor.ppo_mini_batch_size) == (1, 2), "the embedded model's"
    assert not composed.leafe.distillation.mix_trees
    assert compose("leafe", "leafe.distillation.recovery_targets=2").leafe.distillation.recovery_targets == 2


@pytest.mark.parametrize(("dtype", "rate"), [("bfloat16", 3e-5), ("bf16", 3e-5), ("float32", 2e-5)])
def test_the_embedded_model_has_a_rate_for_each_precision(compose, dtype, rate):
    composed = compose("leafe", "device=cpu", f"actor_rollout_ref.rollout.dtype={dtype}")
    assert composed.actor_rollout_ref.actor.optim.lr == rate
    assert compose("leafe", "device=cpu", "actor_rollout_ref.model.path=other").actor_rollout_ref.actor.optim.lr == 1e-5


@pytest.mark.parametrize("config", ["grpo", "ace", "early_experience", "evaluate"])
def test_no_other_method_has_recovery_targets(compose, config):
    overrides = ["leafe.evaluation.store=x"] if config == "evaluate" else []
    distillation = compose(config, "device=gpu", *overrides).leafe.distillation
    assert (distillation.recovery_targets, distillation.rehearsal) == (0, "attempts")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_that_the_file_system_takes_stays_itself(compose, name):
    from omegaconf import OmegaConf

    paths = {"MODEL": f"models/{name}", "TRAIN_FILES": f"{name}.jsonl", "VAL_FILES": f"{name}.parquet"}
    composed = compose("leafe", "device=cpu", RUN_DIR=f"runs/{name}", **paths)
    OmegaConf.resolve(composed)
    assert composed.trainer.experiment_name == name and composed.run_dir == f"{Path.cwd()}/runs/{name}"
    assert composed.trainer.default_local_dir == f"{Path.cwd()}/runs/{name}/checkpoints"
    assert composed.actor_rollout_ref.model.path == paths["MODEL"]
    assert composed.data.train_files == [paths["TRAIN_FILES"]] and composed.data.val_files == [paths["VAL_FILES"]]


def test_a_name_that_omegaconf_would_read_as_a_reference_is_refused(compose):
    with pytest.raises(Exception, match=r"RUN_DIR is 'runs/\$\{x\}'; expected a name without"):
        str(compose("leafe", "device=cpu", RUN_DIR="runs/${x}").run_dir)


def test_what_the_user_sets_in_the_environment_wins(compose):
    variables = compose("leafe", "device=cpu", OMP_NUM_THREADS="7").ray_kwargs.ray_init.runtime_env.env_vars
    assert variables.OMP_NUM_THREADS == "7" and all(isinstance(value, str) for value in variables.values())


def test_our_keys_at_the_root_are_none_of_verls(compose):
    import hydra
    import verl.trainer

    with hydra.initialize_config_dir(f"{next(iter(verl.trainer.__path__))}/config", version_base=None):
        verls = {*hydra.compose("ppo_trainer")}
    assert {*compose("leafe")} - verls == {"leafe", "run_dir"}
