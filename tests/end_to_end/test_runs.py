"""Whole runs of verl with Ray, vLLM and FSDP on a tiny random model."""

import re
from importlib.util import find_spec

import pytest

pytest.importorskip("vllm", reason="vllm is not installed; recipes/setup.sh installs it")
pytest.importorskip("verl", reason="verl is not installed; recipes/setup.sh installs it")

from end_to_end.launch import TERMINAL, launch
from end_to_end.tiny_model import make_tiny_model
from leafe_verl.core.playbook import Playbook
from leafe_verl.evaluation.validations import read_validations
from leafe_verl.plugin.training.checkpointing import CheckpointFolder
from leafe_verl.report.document import report
from leafe_verl.report.progress import RunFollower
from report.reading import read_through

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def leafe_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("leafe")


@pytest.fixture(scope="module")
def leafe_run(model, leafe_dir):
    """Two steps on two data-parallel ranks with a checkpoint, then a third step resumed from it."""
    two_ranks = ["trainer.v1.trainer_mode=leafe_probe", "trainer.n_gpus_per_node=2", "trainer.save_freq=2"]
    if find_spec("tensorboard"):
        two_ranks.append("trainer.logger=[console,file,tensorboard]")
    first = launch("leafe", model, leafe_dir, *two_ranks, "trainer.total_training_steps=2")
    resumed = launch("leafe", model, leafe_dir, *two_ranks, "trainer.total_training_steps=3")
    return first, resumed


def test_the_console_is_short_and_the_log_has_the_rest(leafe_run, leafe_dir):
    printed = (leafe_dir / TERMINAL).read_text()
    first, resumed = re.findall(r"^leafe_probe on .*?train on, up to step \d+$", printed, re.DOTALL | re.MULTILINE)
    for text in (first, resumed):
        assert len(text.splitlines()) <= 60
        assert "\x1b" not in text and "TaskRunner" not in text and "Traceback" not in text
        assert "exploration trees" in text and "report: " in text
    assert "step 1 of 2: collected 6 tasks" in first and "step 2 of 2: distilled" in first
    assert "goes on after step 2" in resumed
    assert "TaskRunnerV1" in (leafe_dir / "log.txt").read_text(errors="replace")
    assert (leafe_dir / "report.html").is_file()
    assert [*read_validations(leafe_dir)] == [2, 3]


def test_leafe_trains_on_examples_of_every_kind(leafe_run):
    first, _ = leafe_run
    for step in (1, 2):
        assert first[step]["leafe/attempts"] >= 12
        assert first[step]["actor/grad_norm"] > 0
    assert sum(first[step]["leafe/examples/counterfactual"] for step in (1, 2)) > 0
    assert sum(first[step]["leafe/examples/rehearsal"] for step in (1, 2)) > 0
    assert sum(first[step]["leafe/examples/recovery"] for step in (1, 2)) > 0
    assert sum(first[step].get("actor/loss_recovery", 0) for step in (1, 2)) > 0
    assert "actor/entropy" not in first[1], "SFT makes no log-prob pass"


def test_what_examples_have_in_common_is_computed_once(leafe_run):
    for step in (1, 2):
        values = leafe_run[0][step]
        assert 0 < values["actor/tokens_computed"] < values["actor/tokens"]
        assert 0 <= values["actor/tokens_padding"] < values["actor/tokens_computed"]
        assert 1 <= values["actor/rank_imbalance"] <= 2


def test_weights_reach_the_rollout(leafe_run):
    first, _ = leafe_run
    assert first[1]["probe/change"] > 0.01
    assert all(first[step]["probe/pearson"] > 0.99 for step in (1, 2))


def test_validation_reports_unbiased_pass_at_k(leafe_run):
    values = leafe_run[0][2]
    assert 0 <= values["val-core/letters/pass@1"] <= values["val-core/letters/pass@2"] <= 1
    assert values["val-aux/letters/unscored"] == 0


def test_a_stopped_run_resumes_at_the_next_step(leafe_run):
    first, resumed = leafe_run
    assert sorted(first) == [1, 2]
    assert sorted(resumed) == [3]
    assert resumed[3]["actor/grad_norm"] > 0


def test_the_best_checkpoint_is_named(leafe_run, leafe_dir):
    first, resumed = leafe_run
    values = {step: run[step]["val-core/letters/pass@1"] for run, step in ((first, 2), (resumed, 3))}
    checkpoints = leafe_dir / "checkpoints"
    best = CheckpointFolder(checkpoints).read_best()
    assert (best.step, best.value) == max(values.items(), key=lambda item: (item[1], -item[0]))
    assert (checkpoints / "best").resolve() == checkpoints.resolve() / f"global_step_{best.step}"


def test_tensorboard_has_branches_of_every_step(leafe_run, leafe_dir):
    pytest.importorskip("tensorboard", reason="tensorboard is missing; pip install tensorboard")
    pytest.importorskip("matplotlib", reason="matplotlib is missing, without which trees are no pictures")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(leafe_dir / "tensorboard"))
    events.Reload()
    branched = [step for run in leafe_run for step in run if run[step]["leafe/branches_scored"]]
    assert [event.step for event in events.Tensors("leafe/branches/text_summary")] == branched
    assert [image.step for image in events.Images("leafe/tree/0")] == branched


def test_the_run_is_watched(leafe_run, leafe_dir):
    found = RunFollower(leafe_dir).look()
    assert (found.stage, found.done, found.plan.trees) == ("ended", 3, 6)
    assert found.whole.counts["trees"] == 18
    assert found.last.rate("sampled_tokens") > 0


@pytest.mark.browser
def test_the_report_of_the_run_is_read(leafe_run, leafe_dir, opened):
    report([leafe_dir])
    read_through(opened, leafe_dir / "report.html")


def test_grpo_on_the_same_environment(model, tmp_path):
    metrics = launch(
        "grpo", model, tmp_path, "trainer.total_training_steps=2", "actor_rollout_ref.actor.ppo_mini_batch_size=2"
    )
    assert sorted(metrics) == [1, 2]
    assert metrics[2]["training/rollout_actor_probs_pearson_corr"] > 0.99
    assert metrics[1]["actor/grad_norm"] > 0
    assert "val-core/letters/pass@2" in metrics[2]


def test_early_experience_predicts_observations_then_imitates_successes(model, tmp_path):
    metrics = launch("early_experience", model, tmp_path, "trainer.total_training_steps=1", "trainer.test_freq=-1")[1]
    assert metrics["leafe/examples/world_model"] == metrics["leafe/attempts_scored"]
    assert metrics["leafe/branches"] == 0
    assert metrics["world_model/loss_world_model"] > 0 and metrics["world_model/grad_norm"] > 0
    assert metrics["leafe/examples/rehearsal"] == metrics["leafe/outcome/success"] > 0
    assert metrics["actor/loss_rehearsal"] > 0 and metrics["actor/grad_norm"] > 0


def test_ace_writes_advice_and_plays_with_it(model, tmp_path):
    # Room for the longest answer that the grammar allows, since random text seldom ends early; and advice that leaves
    # room for turns, since each of its characters is a token here.
    short = ["leafe.playbook.lessons=1", "leafe.playbook.max_characters=300", "leafe.reflection.max_tokens=448"]
    metrics = launch("ace", model, tmp_path, *short, "trainer.total_training_steps=1")
    playbook = Playbook.from_json((tmp_path / "checkpoints/playbook.json").read_text())
    assert metrics[1]["leafe/looks_back"] == 12
    assert metrics[1]["leafe/looks_back_parsed"] > 0
    assert len(playbook.advice) == metrics[1]["leafe/advice"]
    assert "actor/loss" not in metrics[1]
    assert "val-core/letters/pass@1" in metrics[1]
