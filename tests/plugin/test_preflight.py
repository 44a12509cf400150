"""Bad input is refused before Ray starts: what came, what was expected, which setting to change."""

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("verl", reason="verl is not installed")

from hydra import compose, initialize_config_module
from hydra.core.utils import JobStatus
from omegaconf import OmegaConf
from transformers import AutoTokenizer

from leafe_verl import check
from leafe_verl.activity import ActivityFile
from leafe_verl.checkpoints import TRACKER
from leafe_verl.embedded import HELDOUT_FILE, TRAIN_FILE
from leafe_verl.plugin.callbacks import (
    ChoosePlatform,
    ForkWorkers,
    Preflight,
    PrepareModel,
    ResolveConfiguration,
    ShowRun,
    _heading,
    link_checkpoints,
)
from leafe_verl.plugin.evaluate import _quoted as quoted
from leafe_verl.plugin.preflight import engine, machine
from leafe_verl.plugin.preflight.engine import require_cpu_engine
from leafe_verl.plugin.preflight.problems import _verl_problems, find_problems
from leafe_verl.plugin.rollout.collected import find_fingerprint, index_steps
from plugin.chat_templates import LLAMA31, ONE_TURN, write_model
from trees.stores import provenance, rescued, write


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def config(model):
    def build(*overrides, name="leafe", device="cpu"):
        with initialize_config_module("leafe_verl.plugin.config", version_base=None):
            given = [
                f"device={device}",
                f"actor_rollout_ref.model.path={model}",
                f"data.train_files={TRAIN_FILE}",
                f"data.val_files={HELDOUT_FILE}",
                *overrides,
            ]
            return compose(name, overrides=given)

    return build


@pytest.mark.parametrize("name", ["leafe", "grpo", "early_experience", "ace"])
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_shipped_configurations_are_accepted(config, name, device):
    assert find_problems(config(name=name, device=device)) == []


@pytest.mark.parametrize(
    "override, said",
    [
        ("leafe.environment.name=nowhere", "leafe.environment.name"),
        ("+leafe.environment.options.colour=red", "leafe.environment.options"),
        ("+leafe.environment.options.feedback_characters=1", "expected at least 100"),
        ("leafe.budget.attempts=-1", "leafe.budget.attempts is -1; expected"),
        ("leafe.budget.depth=-1", "leafe.budget.depth is -1; expected"),
        ("leafe.reflection.interval=0", "leafe.reflection.interval is 0; expected"),
        ("leafe.distillation.beta=-0.5", "leafe.distillation.beta is -0.5; expected"),
        ("leafe.distillation.events=best", "expected one of improved, every, success"),
        ("+leafe.budget.atempts=3", "leafe.budget.atempts is not a setting (did you mean attempts?)"),
        ("actor_rollout_ref.model.path=/no/such/model", "actor_rollout_ref.model.path"),
        ("trainer.n_gpus_per_node=3", "cannot be divided by 3 data-parallel ranks"),
        ("actor_rollout_ref.rollout.n=0", "actor_rollout_ref.rollout.n is 0; expected"),
        ("leafe.generation.max_tokens=4000", "do not fit a window of"),
        ("leafe.generation.chat_family=chatty", "leafe.generation.chat_family"),
        ("leafe.context.window=-1", "leafe.context.window is -1; expected"),
        (
            "actor_rollout_ref.rollout.full_determinism=true",
            "expected actor_rollout_ref.rollout.max_num_seqs=1",
        ),
        ("actor_rollout_ref.rollout.name=trtllm", "rollout.name is 'trtllm'; expected vllm or sglang"),
        ("actor_rollout_ref.rollout.name=sglang", "without a GPU only vLLM's CPU build is prepared"),
        ("leafe.playbook.path=/no/such/playbook.json", "no playbook at /no/such/playbook.json"),
        ("trainer.v1.trainer_mode=ace", "leafe.playbook.path is null; expected the file"),
        ("data.train_files=/no/such/file.jsonl", "data.train_files: /no/such/file.jsonl does not exist"),
        ("data.train_batch_size=97", "data.train_files hold 96 tasks, fewer than one batch"),
        ("data.train_max_samples=3", "data.train_max_samples is 3, fewer than one batch of data.train_batch_size 16"),
        ("data.filter_overlong_prompts=true", "data.filter_overlong_prompts is True, which is not used here"),
        ("actor_rollout_ref.rollout.multi_turn.tool_config_path=t.yaml", "leafe.environment.name=verl_tools has"),
        ("data.custom_cls.path=mine.py", "data.custom_cls.path is mine.py, a data set whose rows carry no task"),
        ("data.val_files=[null]", "data.val_files names no file; expected the tasks: set VAL_FILES=tasks.jsonl"),
        ("reward.reward_model.enable=true", "reward.reward_model.enable is True, which is not used here"),
        ("reward.sandbox_fusion.url=http://box", "every reward comes from the environment"),
        ("actor_rollout_ref.rollout.multi_turn.max_tool_response_length=99", "expected 256: what a tool says is shown"),
        ("actor_rollout_ref.rollout.multi_turn.max_user_turns=3", "expected null: leafe.environment.horizon limits"),
        (
            "actor_rollout_ref.rollout.val_kwargs.do_sample=false",
            "expected actor_rollout_ref.rollout.val_kwargs.temperature=0",
        ),
        ("actor_rollout_ref.rollout.tensor_model_parallel_size=2", "takes 2 ranks by actor_rollout_ref.rollout.tensor"),
        ("trainer.resume_mode=resume", "trainer.resume_mode is 'resume'; expected one of auto, disable, resume_path"),
        ("trainer.resume_mode=resume_path", "trainer.resume_from_path is None, which is no whole checkpoint"),
    ],
)
def test_each_bad_setting_is_named(config, override, said):
    problems = find_problems(config(override))
    assert len(problems) == 1
    assert said in problems[0]


def test_files_with_tasks_of_one_key_are_refused(config, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(TRAIN_FILE.read_text())
    (problem,) = find_problems(config(f"data.train_files=[{tmp_path}/a.jsonl,{tmp_path}/b.jsonl]"))
    assert f"data.train_files: {tmp_path}/b.jsonl and a file before it both have tasks of the key" in problem


@pytest.mark.parametrize("key", ["reward.custom_reward_function.path", "custom_reward_function.path"])
def test_a_reward_function_that_nothing_would_call_is_refused(config, key):
    (problem,) = find_problems(config(f"++{key}=reward.py"))
    assert problem.startswith(f"{key} is reward.py, and every reward comes from the environment")


def test_a_checkpoint_of_another_number_of_ranks_is_refused_before_anything_starts(config, tmp_path):
    saved = tmp_path / "checkpoints"
    (saved / "global_step_3" / "actor").mkdir(parents=True)
    (saved / TRACKER).write_text("3")
    written = saved / "global_step_3" / "actor" / "fsdp_config.json"
    for ranks, problems in ((1, 0), (4, 1)):
        written.write_text(json.dumps({"FSDP_version": 2, "world_size": ranks}))
        found = find_problems(config(f"trainer.default_local_dir={saved}"))
        assert len(found) == problems
    assert found[0].startswith(f"the checkpoint {saved}/global_step_3 is of 4 ranks, and this run has 1")
    assert find_problems(config(f"trainer.default_local_dir={saved}", "trainer.resume_mode=disable")) == []
    named = ("trainer.resume_mode=resume_path", f"trainer.resume_from_path={saved}/global_step_3")
    (torn,) = find_problems(config(*named))
    assert torn.startswith(f"trainer.resume_from_path is {saved}/global_step_3, which is no whole checkpoint")
    (saved / "global_step_3" / "data.pt").touch()
    assert find_problems(config(*named)) == found


@pytest.mark.parametrize("stages", ["both", "distil"])
def test_a_store_of_another_tokenizer_is_refused(config, model, tmp_path, stages):
    own = find_fingerprint(AutoTokenizer.from_pretrained(model))
    given = (f"leafe.collection.store={tmp_path}", f"leafe.schedule.stages={stages}")
    write(tmp_path, (rescued(), provenance(1, tokenizer=own)), (rescued(), provenance(2, tokenizer=None)))
    assert find_problems(config(*given)) == []
    write(tmp_path, (rescued(), provenance(3, tokenizer="9-abc")))
    (problem,) = find_problems(config(*given))
    assert problem.startswith(f"a tree in leafe.collection.store={tmp_path}: collected with the tokenizer 9-abc")
    assert f"the model tiny; expected {own}" in problem and "Set MODEL" in problem


def test_trees_that_another_model_explored_are_not_the_run_s_own_without_a_checkpoint(config, tmp_path):
    store, run = tmp_path / "trees", "trainer.experiment_name=mine"
    given = (f"leafe.collection.store={store}", run, f"trainer.default_local_dir={tmp_path}")
    here = config(*given).actor_rollout_ref.model.path
    write(store, (rescued(), provenance(1, run="mine", model=here, tokenizer=None)))
    write(store, (rescued(), provenance(1, run="other", tokenizer=None)))
    assert find_problems(config(*given)) == []
    write(store, (rescued("b"), provenance(1, run="mine", tokenizer=None)))
    (problem,) = find_problems(config(*given))
    assert "explored by the model tiny, and there is no checkpoint" in problem and f"which is {here}" in problem
    assert find_problems(config(*given, "trainer.resume_mode=disable")) == []
    assert find_problems(config(*given, "leafe.schedule.stages=distil")) == []


def test_without_a_model_no_data_set_is_downloaded(config):
    hub = "data.train_files=hub:owner/name/full/train"
    (problem,) = find_problems(config("actor_rollout_ref.model.path=/no/such/model", hub))
    assert problem.startswith("no model at /no/such/model")


def test_sglang_is_taken_where_it_is_installed_and_refused_for_what_verl_does_with_vllm_alone(config, monkeypatch):
    sglang, deterministic = "actor_rollout_ref.rollout.name=sglang", "actor_rollout_ref.rollout.full_determinism=true"
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    (problem,) = find_problems(config(sglang, device="gpu"))
    assert "sglang, which is not installed" in problem and "actor_rollout_ref.rollout.name=vllm" in problem
    monkeypatch.setattr(engine, "find_spec", lambda name: name)
    assert find_problems(config(sglang, device="gpu")) == []
    (problem,) = find_problems(config(sglang, deterministic, device="gpu"))
    assert "full_determinism is true" in problem


SEQUENCE_RANKS = (
    "actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size",
    "actor_rollout_ref.actor.ulysses_sequence_parallel_size",
)
"""verl's setting, and the one that it replaces."""


@pytest.mark.parametrize("key", SEQUENCE_RANKS)
def test_sequence_parallelism_is_refused_where_ranks_would_not_see_whole_sequences(config, key):
    parallel = f"{key}=2"
    flash = "actor_rollout_ref.model.override_config.attn_implementation=flash_attention_2"
    packed = "actor_rollout_ref.model.use_remove_padding=true"
    given = ("actor_rollout_ref.model.override_config.attn_implementation=sdpa", "trainer.n_gpus_per_node=2", parallel)
    for overrides in ((*given, packed), (*given, flash, "actor_rollout_ref.model.use_remove_padding=false")):
        (problem,) = find_problems(config(*overrides, device="gpu"))
        assert (
            "ulysses_sequence_parallel_size is 2, with attention" in problem and "expected 1, or flash-attn" in problem
        )
    assert find_problems(config(*given, flash, packed, device="gpu")) == []


@pytest.mark.parametrize("key", SEQUENCE_RANKS)
def test_ranks_of_a_sequence_count_where_batches_and_windows_are_checked(config, key):
    given = [
        *("actor_rollout_ref.model.override_config.attn_implementation=flash_attention_2", f"{key}=2"),
        *("actor_rollout_ref.model.use_remove_padding=true", "trainer.n_gpus_per_node=6"),
        *("actor_rollout_ref.actor.ppo_mini_batch_size=3", "actor_rollout_ref.rollout.n=1"),
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=4096",
    ]
    assert find_problems(config(*given, device="gpu")) == [], "a window of 8192 tokens, and 3 data-parallel ranks"
    (problem,) = find_problems(config(*given, "data.max_response_length=6146", device="gpu"))
    assert "8194 tokens" in problem and "at most 8192" in problem and "expected at least 4097" in problem
    (problem,) = find_problems(config(*given, "trainer.n_gpus_per_node=5", device="gpu"))
    assert f"{SEQUENCE_RANKS[0]} is 2, which does not divide 5 ranks" in problem


def test_a_schedule_over_one_training_step_is_refused_where_it_cannot_count_optimiser_steps(config):
    given = ("leafe.schedule.collect=all", "actor_rollout_ref.actor.optim.lr_warmup_steps=2")
    other = "actor_rollout_ref.actor.strategy=veomni"
    assert find_problems(config(*given)) == find_problems(config(given[0], other)) == find_problems(config(other)) == []
    (problem,) = find_problems(config(*given, other))
    assert "actor_rollout_ref.actor.optim.lr_warmup_steps is 2" in problem and "leafe.schedule.collect=batch" in problem


@pytest.mark.parametrize(
    "override, expected",
    [
        ("actor_rollout_ref.actor.use_kl_loss=true", ["is true, which", "false; LEAFE holds the policy"]),
        ("algorithm.use_kl_in_reward=true", ["is true, which", "leafe.distillation.hold_loss=kl"]),
        ("actor_rollout_ref.actor.entropy_coeff=0.01", ["is 0.01, which", "leafe.distillation.hold_share above 0"]),
        (
            "actor_rollout_ref.actor.loss_agg_mode=token-sum",
            ['expected "token-mean"; ', "leafe.distillation.loss_agg_mode"],
        ),
        ("critic.enable=true", ["is true, which", "there is no critic"]),
        ("trainer.critic_warmup=2", ["is 2, which", "would explore and train nothing"]),
        ("distillation.enabled=true", ["is true, which", "leafe.distillation.loss, recovery_loss or hold_loss=kl"]),
    ],
)
def test_what_verl_would_take_for_the_loss_is_refused_where_it_is_not_used(config, override, expected):
    key = override.partition("=")[0]
    (problem,) = find_problems(config(override))
    assert problem.startswith(key) and all(text in problem for text in expected)
    (problem,) = find_problems(config(override, name="ace"))
    assert problem.startswith(key) and "'ace' does not use; expected" in problem and "leafe.distillation" not in problem
    assert find_problems(config(override, name="grpo")) == []


def test_a_critic_that_nothing_would_train_is_refused(config):
    (problem,) = find_problems(config("algorithm.adv_estimator=gae"))
    assert problem.startswith("algorithm.adv_estimator is 'gae', for which verl would train a critic; leafe has none")
    assert find_problems(config("algorithm.adv_estimator=gae", "critic.enable=false")) == []


@pytest.mark.parametrize("key", ["algorithm.filter_groups.enable", "trainer.v1.sampler.sync_refill_failed_groups"])
@pytest.mark.parametrize("name", ["leafe", "grpo"])
def test_what_verl_s_own_sampler_alone_does_is_refused(config, key, name):
    (problem,) = find_problems(config(f"{key}=true", name=name))
    assert problem == f"{key} is true, which the sampler of leafe-verl does not do; expected false"
    assert find_problems(config(f"{key}=false", name=name)) == []


def test_several_sequences_of_an_attempt_are_refused_where_verl_would_take_them_for_attempts(config):
    (problem,) = find_problems(config("leafe.context.window=2", "algorithm.adv_estimator=rloo", name="grpo"))
    assert "leafe.context.window is 2" in problem and "algorithm.adv_estimator is 'rloo'" in problem
    assert find_problems(config("leafe.context.window=2", name="grpo")) == []
    assert find_problems(config("leafe.context.window=2", "algorithm.adv_estimator=rloo")) == [], "LEAFE has no groups"


@pytest.mark.parametrize(
    "row, said",
    [
        ("{not json", "line 2: not JSON"),
        ('["a list"]', "expected an object"),
        (json.dumps({"task_id": 1, "text": "Do it.", "code": "", "test_list": []}), "test"),
    ],
)
def test_each_bad_row_is_named(config, tmp_path, row, said):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(TRAIN_FILE.read_text().splitlines()[0] + "\n" + row + "\n")
    (problem, *_) = find_problems(config(f"data.val_files={rows}"))
    assert "data.val_files" in problem
    assert "line 2" in problem
    assert said in problem


def test_all_problems_are_reported_at_once_and_end_the_process(config):
    broken = config("leafe.budget.depth=-1", "leafe.distillation.beta=-1", "trainer.n_gpus_per_node=3")
    with pytest.raises(SystemExit) as refusal:
        Preflight().on_job_start(broken)
    assert str(refusal.value).count("\n- ") == 3


def test_a_run_without_a_gpu_keeps_off_one_that_nvidia_smi_shows(config, monkeypatch):
    chosen = []
    monkeypatch.setattr("leafe_verl.plugin.callbacks.set_platform", chosen.append)
    ChoosePlatform().on_job_start(config(device="gpu"))
    assert chosen == []
    ChoosePlatform().on_job_start(config())
    assert [platform.device_name for platform in chosen] == ["cpu"]
    assert config().ray_kwargs.ray_init.runtime_env.env_vars.LEAFE_DEVICE == "cpu", "its workers"


def test_a_vllm_that_needs_a_gpu_is_refused_without_one(config, monkeypatch):
    monkeypatch.setattr(engine, "cpu_version", lambda: "0.28.0")
    require_cpu_engine(config())
    monkeypatch.setattr(engine, "cpu_version", lambda: None)
    monkeypatch.setattr(engine, "version", lambda name: "0.24.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SystemExit, match=r"torch sees no GPU here \(CUDA_VISIBLE_DEVICES is ''\)"):
        ChoosePlatform().on_run_start(config())
    require_cpu_engine(config(device="gpu"))
    monkeypatch.setattr(engine, "version", lambda name: "0.24.0+cpu")
    require_cpu_engine(config())


def test_weights_and_checkpoints_need_room(config, monkeypatch):
    usage, shape = SimpleNamespace(free=2**20), SimpleNamespace(parameters=2**27)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr(machine, "ModelShape", SimpleNamespace(read=lambda model: shape))
    shared, disk = find_problems(config())
    assert shared.startswith("/dev/shm has 1 MiB free, and weights travel through") and "--shm-size=2g" in shared
    assert disk.startswith("a checkpoint of this model takes 1.5 GiB, and 0.0 GiB are free in ") and "RUN_DIR" in disk
    assert find_problems(config("leafe.memory.refuse=false")) == []
    for saves_none in ("trainer.save_freq=-1", "leafe.schedule.stages=explore"):
        assert find_problems(config(saves_none)) == [shared]
    usage.free = 4 * 2**30
    assert find_problems(config()) == []


def test_a_folder_too_long_for_ray_s_sockets_is_refused(config, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/scratch/of/a/cluster/and/a/job/123456789")
    (problem,) = find_problems(config())
    assert problem.startswith("TMPDIR is /scratch/") and "at most 39 bytes" in problem and "RAY_TMPDIR=/tmp" in problem
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert find_problems(config()) == []


def test_the_library_that_vllm_is_linked_to_is_missed_before_it_starts(config, monkeypatch):
    monkeypatch.setattr(machine.ctypes, "CDLL", missing_library)
    (problem,) = find_problems(config())
    assert problem.startswith("vLLM's CPU build needs libnuma.so.1, which is not here; apt-get install libnuma1")
    assert find_problems(config(device="gpu")) == []


def missing_library(name):
    raise OSError(f"{name}: cannot open shared object file")


def test_forked_workers_are_for_runs_without_a_gpu_that_start_ray_themselves(config, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.delenv("RAY_RUNTIME_ENV_HOOK", raising=False)
    ForkWorkers().on_job_start(config())
    assert "RAY_RUNTIME_ENV_HOOK" not in os.environ
    monkeypatch.delenv("RAY_ADDRESS")
    ForkWorkers().on_job_start(config(device="gpu"))
    assert "RAY_RUNTIME_ENV_HOOK" not in os.environ
    ForkWorkers().on_job_start(config())
    assert os.environ["RAY_RUNTIME_ENV_HOOK"] == "leafe_verl.plugin.cpu.fork_server.with_fork_server"
    monkeypatch.delenv("RAY_RUNTIME_ENV_HOOK")


@pytest.mark.parametrize(("steps", "refused"), [(5, True), (6, False)])
def test_a_budget_without_the_steps_of_one_attempt_is_refused(config, steps, refused):
    given = (f"leafe.budget.environment_steps={steps}", "leafe.environment.horizon=2", "leafe.memory.refuse=false")
    problems = find_problems(config(*given, "leafe.distillation.recovery_targets=4"))
    said = f"leafe.budget.environment_steps is {steps}, of which 4 are kept for recovery targets; expected at least 6"
    assert [problem.startswith(said) for problem in problems] == [True] * refused


def test_a_checkpoint_without_weights_is_refused_as_a_model(config, tmp_path):
    with pytest.raises(SystemExit, match="is no model: expected a Hugging Face folder"):
        PrepareModel().on_run_start(config(f"actor_rollout_ref.model.path={tmp_path}"))


def test_what_verl_gets_is_resolved(config, tmp_path):
    composed = config(f"run_dir={tmp_path}/new")
    ResolveConfiguration().on_run_start(composed)
    sent = OmegaConf.to_container(composed.ray_kwargs, resolve=False)
    assert "${" not in json.dumps(sent) and (tmp_path / "new").is_dir()


def test_files_are_named_for_workers_that_run_in_another_folder(config, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(TRAIN_FILE, "train.jsonl")
    Path("model").symlink_to(model)
    given = ["data.train_files=[train.jsonl]", "data.val_files=hub:owner/name/full/test"]
    Path("reward.py").touch()
    given += ["+leafe.environment.options={reward_path: reward.py, module: model}"]
    given += ["trainer.resume_from_path=checkpoints/global_step_2/"]
    given += ["leafe.collection.store=trees", "leafe.playbook.path='~/playbook.json'"]
    composed = config(*given, f"run_dir={tmp_path}/run", "actor_rollout_ref.model.path=model")
    ResolveConfiguration().on_run_start(composed)
    PrepareModel().on_run_start(composed)
    assert composed.data.train_files == [f"{tmp_path}/train.jsonl"]
    assert composed.data.val_files == ["hub:owner/name/full/test"]
    assert composed.trainer.resume_from_path == f"{tmp_path}/checkpoints/global_step_2"
    assert composed.leafe.environment.options == {"reward_path": f"{tmp_path}/reward.py", "module": "model"}
    assert composed.actor_rollout_ref.model.path == f"{tmp_path}/model"
    assert composed.leafe.collection.store == f"{tmp_path}/trees"
    assert composed.leafe.playbook.path == str(Path.home() / "playbook.json")
    assert composed.leafe.evaluation.store is None


class Told:
    """Stands for the console of a run, and keeps what it is told."""

    def __init__(self):
        self.told = []

    def __getattr__(self, name):
        return lambda *values, **named: self.told.append((name, *values, *named.items()))


@pytest.fixture
def console(monkeypatch):
    told = Told()
    monkeypatch.setattr(ShowRun, "console", told)
    return told


def test_the_console_is_told_how_a_run_ended(config, console):
    error = RuntimeError("a reason")
    good, bad = (
        SimpleNamespace(status=JobStatus.COMPLETED),
        SimpleNamespace(status=JobStatus.FAILED, _return_value=error),
    )
    for composed, job in ((config(), good), (config("trainer.val_only=true"), good), (config(), bad)):
        ShowRun().on_job_end(composed, job)
    assert console.told == [("succeed", ("trained", True)), ("succeed", ("trained", False)), ("fail", error)]


def test_a_refusal_gives_the_terminal_back(config, console):
    with pytest.raises(SystemExit, match="refuses to start:\n- "):
        Preflight().on_job_start(config("data.train_batch_size=0"))
    assert console.told == [("release",)]


def test_a_run_dir_that_cannot_be_written_is_refused(config):
    with pytest.raises(SystemExit, match=r"RUN_DIR /dev/null/run cannot be written \(Not a directory\); expected a"):
        ResolveConfiguration().on_run_start(config("run_dir=/dev/null/run"))


def test_the_heading_says_what_is_run_and_where_it_goes_on(config, tmp_path, monkeypatch):
    monkeypatch.delenv("VERBOSE", raising=False)
    composed = config(f"run_dir={tmp_path}", "trainer.total_training_steps=2")
    OmegaConf.resolve(composed)
    first, *_ = _heading(composed)
    assert first.startswith("leafe on mbpp with ") and first.endswith("cpu, 2 steps of 16 tasks")
    assert "goes on" not in " ".join(_heading(composed))
    (tmp_path / "checkpoints" / "global_step_1").mkdir(parents=True)
    (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("1")
    assert [*_heading(composed)][1:3] == [f"RUN_DIR={tmp_path}", "goes on after step 1, from its checkpoint"]
    assert [*_heading(composed)][-1].startswith(f"verl, Ray and vLLM print to {tmp_path}/log.txt")


def test_the_heading_counts_the_trees_that_an_interrupted_step_has_stored(config, tmp_path, monkeypatch):
    monkeypatch.setenv("RUN_DIR", str(tmp_path))
    trees = [(rescued("a"), provenance(1, run=tmp_path.name)), (rescued("b"), provenance(2, run=tmp_path.name))]
    write(tmp_path / "checkpoints" / "trees", *trees, (rescued("c"), provenance(1, run="another")))
    composed = config(f"run_dir={tmp_path}")
    OmegaConf.resolve(composed)
    assert "takes the 1 trees that step 1 has stored already, and collects the rest" in [*_heading(composed)]
    assert "takes" not in " ".join(_heading(config(f"run_dir={tmp_path}", "leafe.schedule.stages=distil")))


def test_a_run_that_is_sent_back_takes_no_tree_of_what_it_gives_up(config, tmp_path):
    saved = tmp_path / "checkpoints"
    write(saved / "trees", (rescued("a"), provenance(2, run=tmp_path.name, tokenizer=None)))
    back = (f"trainer.resume_from_path={saved}/global_step_1", "trainer.resume_mode=resume_path")
    composed = config(f"run_dir={tmp_path}", f"trainer.experiment_name={tmp_path.name}", *back)
    OmegaConf.resolve(composed)
    heading = " ".join(_heading(composed))
    assert "goes on after step 1, from its checkpoint" in heading and "takes" not in heading
    assert index_steps(saved / "trees", tmp_path.name, 2)
    (saved / "global_step_1").mkdir()
    (saved / "global_step_1" / "data.pt").touch()
    Preflight().on_job_start(composed)
    assert not index_steps(saved / "trees", tmp_path.name, 2)


def test_a_run_that_begins_anew_leaves_the_figures_of_the_former_one_aside(config, tmp_path):
    for name in ("metrics-1.jsonl", "validations.jsonl"):
        (tmp_path / name).write_text("{}")
    for mode, left in (("auto", 2), ("disable", 0)):
        composed = config(f"run_dir={tmp_path}", f"trainer.resume_mode={mode}")
        OmegaConf.resolve(composed)
        Preflight().on_job_start(composed)
        assert len([*tmp_path.glob("*.jsonl")]) == left
    assert len([*tmp_path.glob("*.former-*")]) == 2


def test_checkpoints_elsewhere_are_found_in_the_run_s_folder(tmp_path):
    run_dir, chosen = tmp_path / "run", tmp_path / "shared" / "mine"
    for _ in range(2):
        link_checkpoints(run_dir, chosen)
        assert (run_dir / "checkpoints").resolve() == chosen.resolve() and chosen.is_dir()
    link_checkpoints(tmp_path / "other", tmp_path / "other" / "checkpoints")
    assert not (tmp_path / "other").exists()


def test_a_new_run_says_how_the_last_one_is_gone_on_with(config, tmp_path, monkeypatch):
    monkeypatch.delenv("RUN_DIR", raising=False)
    killed = tmp_path / "killed"
    (killed / "checkpoints").mkdir(parents=True)
    (killed / "lock").touch()
    ActivityFile(killed).begin("collecting", step=1)
    composed = config(f"run_dir={tmp_path}/new")
    OmegaConf.resolve(composed)
    assert f"a new run; RUN_DIR={killed} before the command goes on with the last one" in "\n".join(_heading(composed))
    monkeypatch.setenv("RUN_DIR", f"{tmp_path}/new")
    assert "a new run" not in "\n".join(_heading(composed))


def test_a_run_dir_in_which_a_run_is_going_on_is_refused(config, tmp_path):
    ResolveConfiguration().on_run_start(config(f"run_dir={tmp_path}"))
    with pytest.raises(SystemExit, match=f"a run is going on in RUN_DIR {tmp_path}; expected another folder"):
        ResolveConfiguration().on_run_start(config(f"run_dir={tmp_path}"))


def test_verl_of_another_minor_version_is_refused():
    assert _verl_problems("0.9.1") == []
    (problem,) = _verl_problems("0.10.0")
    assert "verl 0.10.0 is installed" in problem
    assert "pip install verl==0.9.1" in problem


def test_the_yaml_and_the_models_have_the_same_defaults(config):
    from leafe_verl.plugin.settings import RunSettings

    composed = config("~preset", device="gpu")
    settings = OmegaConf.to_container(composed.leafe, resolve=True)
    assert settings["collection"].pop("store") == f"{composed.trainer.default_local_dir}/trees"
    assert RunSettings.from_mapping(settings) == RunSettings()


@pytest.mark.parametrize("error", [FileNotFoundError("no .gguf"), ImportError("gguf is missing"), OSError("disk full")])
def test_whatever_a_callback_raises_ends_the_run(config, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("leafe_verl.plugin.callbacks.hf_folder", fail)
    monkeypatch.setattr("leafe_verl.plugin.callbacks.find_problems", fail)
    for run in (PrepareModel().on_run_start, Preflight().on_job_start):
        with pytest.raises(SystemExit, match=str(error)):
            run(config())


def test_a_sweep_is_refused(config):
    with pytest.raises(SystemExit, match="--multirun is not supported"):
        ResolveConfiguration().on_multirun_start(config())


class TestChat:
    """One question to the model before Ray starts; tests/plugin/rollout/test_chat_format.py has the answers."""

    def test_a_template_without_turns_is_one_refusal(self, config):
        (problem,) = find_problems(config(f"actor_rollout_ref.model.custom_chat_template={quoted(ONE_TURN)}"))
        assert "one turn alone" in problem and "actor_rollout_ref.model.custom_chat_template" in problem

    def test_a_folder_without_a_tokenizer_is_refused(self, config, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        (problem,) = find_problems(config(f"actor_rollout_ref.model.path={tmp_path}"))
        assert f"{tmp_path}: its tokenizer cannot be loaded" in problem

    def test_the_runs_log_says_what_was_chosen(self, config, capsys):
        template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + LLAMA31
        Preflight().on_job_start(config(f"actor_rollout_ref.model.custom_chat_template={quoted(template)}"))
        assert "no system prompt: it opens the first user's turn" in capsys.readouterr().out

    def test_what_needs_whole_turns_in_later_prompts_is_refused(self, config, tmp_path):
        thinking = f"actor_rollout_ref.model.path={write_model(tmp_path, 'qwen3')}"
        assert find_problems(config(thinking)) == find_problems(config(thinking, name="grpo")) == []
        (problem,) = find_problems(config(thinking, name="early_experience"))
        assert "'early_experience'" in problem and "leafe.generation.earlier_thoughts=keep" in problem
        rloo = (thinking, "algorithm.adv_estimator=rloo")
        (problem,) = find_problems(config(*rloo, name="grpo"))
        assert "algorithm.adv_estimator is 'rloo'" in problem and "leafe.generation.earlier_thoughts=keep" in problem
        assert find_problems(config(*rloo, "leafe.generation.earlier_thoughts=keep", name="grpo")) == []

    def test_thoughts_need_room_too(self, config):
        assert find_problems(config("leafe.generation.thought_tokens=100")) == []
        (problem,) = find_problems(config("leafe.generation.thought_tokens=100000"))
        assert "leafe.generation.thought_tokens" in problem and "raise data.max_response_length" in problem

    def test_check_says_the_same(self, model, capsys):
        assert check._model_state(str(model)).startswith("turns are appended by verl's builder 'auto'")

    def test_check_takes_a_checkpoint(self, model, tmp_path, monkeypatch):
        monkeypatch.setattr("leafe_verl.checkpoints.hf_folder", lambda path: str(model))
        assert check._model_state(str(tmp_path / "global_step_2")).startswith("turns are appended")

    def test_check_names_what_is_missing(self, tmp_path, capsys):
        (write_model(tmp_path) / "chat_template.jinja").unlink()
        with pytest.raises(ValueError, match="no chat template"):
            check._model_state(str(tmp_path))


@pytest.mark.parametrize(
    "overrides, name, said",
    [
        (["leafe.collection.store=null"], "leafe", "no trees are kept; expected a folder in leafe.collection.store"),
        (["data.shuffle=false"], "leafe", "data.shuffle is false, which keeps the order of the files; expected true"),
        (
            ["leafe.schedule.collect=all"],
            "leafe",
            "leafe.schedule.collect 'all' and stages 'both'; expected collect=batch",
        ),
        (
            ["leafe.schedule.stages=distil"],
            "leafe",
            "stages 'distil'; expected collect=batch and stages=both or explore",
        ),
        ([], "grpo", "trainer.v1.trainer_mode is 'grpo', which keeps no trees; expected leafe"),
    ],
)
def test_a_curriculum_is_refused_where_nothing_is_known_or_drawn(config, tmp_path, overrides, name, said):
    given = ["leafe.curriculum.floor=0.1", f"trainer.default_local_dir={tmp_path}", *overrides]
    (problem,) = find_problems(config(*given, name=name))
    assert said in problem and "leafe.curriculum.floor is 0.1" in problem and "leafe.curriculum.floor=null" in problem


def test_a_curriculum_is_taken_with_a_store(config, tmp_path):
    assert find_problems(config("leafe.curriculum.floor=0.1", f"trainer.default_local_dir={tmp_path}")) == []


FAILING = {
    "Boom": "raise KeyError('x')",
    "Silent": "assert False",
    "Told": "raise ValueError('no such game')",
}


@pytest.mark.parametrize("name", FAILING)
def test_an_environment_that_cannot_be_made_is_named_with_what_it_raised(config, tmp_path, monkeypatch, name):
    (tmp_path / "failing.py").write_text(f"class {name}:\n    def __init__(self):\n        {FAILING[name]}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "failing", raising=False)
    (problem,) = find_problems(config(f"leafe.environment.name=failing:{name}"))
    assert problem.startswith(f"leafe.environment.name=failing:{name} cannot be made with leafe.environment.options=")
    raised = {"Boom": "KeyError: 'x'", "Silent": "AssertionError", "Told": "ValueError: no such game"}[name]
    assert problem.endswith(f": {raised}, in failing.py, line 3")


def test_an_environment_of_ones_own_is_to_be_named_with_its_tasks(config, monkeypatch):
    for name in ("TRAIN_FILES", "VAL_FILES"):
        monkeypatch.delenv(name, raising=False)
    (problem,) = find_problems(config("environment=custom", "data.train_files=[null]", "data.val_files=[null]"))
    assert problem.startswith("leafe.environment.name is None; expected")


def test_gpus_that_torch_counts_and_cannot_use_are_refused(config, monkeypatch):
    monkeypatch.setattr(engine, "count_gpus", lambda: 8)
    (problem,) = find_problems(config(device="gpu"))
    assert "counts 8 GPUs and cannot use them (" in problem and "nvidia-smi shows, or SETUP_DEVICE=cpu" in problem
