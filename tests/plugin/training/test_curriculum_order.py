"""The order of tasks under a curriculum, also across the end of a pass and a kill."""

import copy
from collections import Counter

import pytest
import torch

pytest.importorskip("verl")

from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import RandomSampler

from fakes import ScriptedPolicy, Task, grow
from leafe_verl.plugin.training.curriculum import Curriculum, CurriculumSampler, with_sampler
from leafe_verl.trees import Provenance, TreeWriter

BATCH, TASKS, STEPS = 4, 16, 10
KEYS = [f"task {index}" for index in range(TASKS)]


class Tasks(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return TASKS

    def __getitem__(self, index: int) -> int:
        return index


class Run:
    """A run whose even tasks nobody solves."""

    def __init__(self, store, workers=0):
        self.step, self.store, self.workers = 0, store, workers
        self.curriculum = Curriculum(0.05, 4, str(store), "run", KEYS, BATCH, seed=0)
        self.trees = {success: self.grow(success) for success in (True, False)}
        self.start()

    @staticmethod
    def grow(success):
        task = Task("walk", "Walk.", "corridor", {"goal": 3})
        return grow(ScriptedPolicy(lambda messages: "R" if success else "L"), task=task, roots=4, budget={"depth": 0})

    def start(self, state=None):
        # Made as verl/trainer/ppo/v1/trainer_base.py makes it.
        verls = StatefulDataLoader(
            dataset=Tasks(), batch_size=BATCH, num_workers=self.workers, drop_last=True, sampler=RandomSampler(Tasks())
        )
        self.data = with_sampler(verls, CurriculumSampler(TASKS, lambda: self.curriculum.draw(self.step)))
        self.iterator = None
        if state is not None:
            self.data.load_state_dict(state)

    def next_batch(self):
        self.step += 1
        self.iterator = self.iterator or iter(self.data)
        batch = next(self.iterator, None)
        if batch is None:
            self.iterator = iter(self.data)
            batch = next(self.iterator)
        return batch.tolist()

    def collect(self, batch):
        with TreeWriter(self.store) as writer:
            for index in batch:
                tree = copy.copy(self.trees[index % 2 == 1])
                tree.task = Task(KEYS[index], "Walk.", "corridor", {"goal": 3})
                writer.append(tree, Provenance(run="run", step=self.step))


def batches(store, resumed_from=None, killed_after=None, workers=0):
    """The batches of STEPS steps. The run is killed after a step and goes on from an earlier one's checkpoint."""
    run, seen, saved = Run(store, workers), {}, None
    while run.step < STEPS:
        batch = run.next_batch()
        if run.step not in seen:
            run.collect(batch)
        seen.setdefault(run.step, batch)
        assert seen[run.step] == batch, "a step that is repeated has the same tasks"
        if run.step == resumed_from:
            saved = copy.deepcopy(run.data.state_dict())
        if run.step == killed_after:
            run.step, killed_after = resumed_from, None
            run.start(saved)
    return list(seen.values())


@pytest.mark.parametrize("resumed_from, killed_after", [(1, 1), (2, 3), (3, 6), (4, 5), (5, 9), (8, 9)])
def test_the_order_of_tasks_survives_a_kill(tmp_path, resumed_from, killed_after):
    undisturbed = batches(tmp_path / "one")
    assert batches(tmp_path / "other", resumed_from, killed_after) == undisturbed


def test_loader_processes_change_nothing(tmp_path):
    assert batches(tmp_path / "one", workers=1) == batches(tmp_path / "other")


def test_the_first_pass_holds_every_task_and_a_later_one_fewer_that_nobody_solves(tmp_path):
    run = Run(tmp_path)
    first = [run.next_batch() for _ in range(TASKS // BATCH)]
    assert sorted(task for batch in first for task in batch) == list(range(TASKS))
    for _ in range(4):
        run.step += 1
        run.collect(range(0, TASKS, 2))
    counts = Counter(task % 2 for step in range(50, 100) for task in run.curriculum.draw(step))
    assert 0 < counts[0] < 0.6 * counts[1]


def test_a_checkpoint_of_a_run_without_a_curriculum_begins_a_new_pass(tmp_path):
    verls = StatefulDataLoader(dataset=Tasks(), batch_size=BATCH, drop_last=True, sampler=RandomSampler(Tasks()))
    next(iter(verls))
    run = Run(tmp_path)
    run.start(verls.state_dict())
    seen = [task for _ in range(TASKS // BATCH) for task in run.next_batch()]
    assert sorted(seen) == list(range(TASKS))
