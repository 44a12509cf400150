"""The learning rate's schedule: over optimiser steps where there is one training step, else over training steps."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("verl", reason="verl is not installed")

from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta
from verl.utils import tensordict_utils as tu

from end_to_end.sft_update import batch, examples, worker
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.plugin.training.phases import Phase, prepare_update
from leafe_verl.plugin.wire import DistillationInfo
from plugin.training.test_prefix_sharing import model, process_group  # noqa: F401  # fixtures

RATE = 1e-3


@pytest.fixture
def trainer(model, process_group):  # noqa: F811
    """A worker with a warm-up of two steps, in a run of one training step."""
    return worker(str(model), lr=RATE, optim={"lr_warmup_steps": 2, "total_training_steps": 1})


def rates(trainer, epochs, **info):
    """The rates of a phase's optimiser steps, as shares of the full one."""
    found = []

    def keep_rate():
        found.append(trainer.engine.optimizer.param_groups[0]["lr"] / RATE)
        return type(trainer.engine).optimizer_step(trainer.engine)

    rows = examples()[:2]
    given = DistillationInfo({"rehearsal": 0.5, "counterfactual": 1.0}, epochs, True, **info).to_extra_info()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.engine, "optimizer_step", keep_rate)
        trainer.train_mini_batch(tu.assign_non_tensor(batch(rows), mini_batch_size=2, epochs=epochs, **given))
    return found


def test_a_warm_up_in_the_only_training_step_is_over_its_optimiser_steps(trainer):
    assert rates(trainer, 3, scheduled_updates=4, last=False) == [0, 0.5, 1]
    assert rates(trainer, 1, scheduled_updates=4) == [1]
    held = trainer.engine.checkpoint_manager.lr_scheduler
    assert held is trainer.engine.lr_scheduler and held.last_epoch == 4


def test_a_cosine_in_the_only_training_step_ends_with_it(model, process_group):  # noqa: F811
    built = worker(str(model), lr=RATE, optim={"lr_scheduler_type": "cosine", "total_training_steps": 1})
    assert rates(built, 2, scheduled_updates=4) == pytest.approx([1, 0.5 + 0.5**1.5])
    assert rates(built, 2, scheduled_updates=4) == pytest.approx([0.5, 0.5 - 0.5**1.5])


def test_otherwise_the_schedule_goes_on_once_in_a_training_step(trainer):
    assert rates(trainer, 2, last=False) + rates(trainer, 2) == [0] * 4
    assert rates(trainer, 2, last=False) + rates(trainer, 2) == [0.5] * 4
    assert rates(trainer, 1) == [1]


def phase(number):
    meta = KVBatchMeta(keys=["a", "b"], tags=[{}, {}], partition_id="train", extra_info={})
    return Phase("actor", meta, {"rehearsal": 1.0}, 1, 2, number, 1.0, 10, 0)


@pytest.mark.parametrize(
    "collect, strategy, scheduled", [("all", "fsdp2", 5), ("all", "megatron", None), ("batch", "fsdp2", None)]
)
def test_the_trainer_says_what_the_schedule_is_over_and_which_phase_is_the_last(collect, strategy, scheduled):
    distillation = DistillationSettings(temperature=0.8).model_dump()
    actor = {"shuffle": True, "data_loader_seed": 1, "strategy": strategy}
    leafe = {"distillation": distillation, "schedule": {"collect": collect}}
    config = OmegaConf.create({"actor_rollout_ref": {"actor": actor}, "leafe": leafe})
    phases = [phase(2), phase(3)]
    for each in phases:
        prepare_update(each, phases, config)
    said = [each.batch.extra_info for each in phases]
    assert [each["leafe_scheduled_updates"] for each in said] == [scheduled] * 2
    assert [each["temperature"] for each in said] == [0.8] * 2
    assert [each["leafe_last"] for each in said] == [False, True]
