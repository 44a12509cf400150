"""A resumed run sees its tasks in the order in which an undisturbed one does, also across the end of an epoch."""

import copy

import pytest
import torch

pytest.importorskip("verl")

from omegaconf import OmegaConf
from torchdata.stateful_dataloader import StatefulDataLoader
from verl.trainer.ppo.utils import create_rl_sampler

BATCH, BATCHES_OF_AN_EPOCH, STEPS = 4, 3, 8


class Order(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return BATCH * BATCHES_OF_AN_EPOCH

    def __getitem__(self, index: int) -> int:
        return index


def loader() -> StatefulDataLoader:
    """Make it as verl/trainer/ppo/v1/trainer_base.py does."""
    sampler = create_rl_sampler(OmegaConf.create({"shuffle": True, "seed": 1}), Order())
    return StatefulDataLoader(dataset=Order(), batch_size=BATCH, num_workers=0, drop_last=True, sampler=sampler)


def batches(killed_after: int | None) -> list[list[int]]:
    """The batches of STEPS steps; after one of them everything but the checkpoint's state is lost."""
    data, iterator, seen = loader(), None, []
    for step in range(1, STEPS + 1):
        iterator = iterator or iter(data)
        batch = next(iterator, None)
        if batch is None:
            iterator = iter(data)
            batch = next(iterator)
        seen.append(batch.tolist())
        if step == killed_after:
            state = copy.deepcopy(data.state_dict())
            data, iterator = loader(), None
            data.load_state_dict(state)
    return seen


@pytest.mark.parametrize("killed_after", range(1, STEPS))
def test_the_order_of_tasks_survives_a_kill(killed_after):
    undisturbed = batches(None)
    assert batches(killed_after) == undisturbed
    epoch = [task for batch in undisturbed[:BATCHES_OF_AN_EPOCH] for task in batch]
    assert sorted(epoch) == list(range(len(Order())))
