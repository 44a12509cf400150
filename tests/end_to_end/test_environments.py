"""One LEAFE step on the paper's environments with a tiny random model, all in one run."""

from __future__ import annotations

import importlib.util
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vllm is not installed; recipes/setup.sh installs it")
pytest.importorskip("verl", reason="verl is not installed; recipes/setup.sh installs it")

from end_to_end.launch import launch
from end_to_end.tiny_model import make_tiny_model
from leafe_verl.core import ExplorationTree
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.core.sft_examples import Kind, build_examples
from leafe_verl.environments import alfworld, scienceworld
from leafe_verl.trees import read_trees

pytestmark = pytest.mark.end_to_end

DATA = Path(alfworld.__file__).parents[1] / "data"
ENVIRONMENTS = ("codecontests", "sokoban", "webshop", "scienceworld", "alfworld", "workspace")
REPLAYING = ("scienceworld", "alfworld")
TASKS = 2
"""Number of tasks of each environment."""
HORIZON = 3
ATTEMPTS = 6
SETTINGS = [
    "leafe.environment.name=end_to_end.mixture:Mixture",
    f"leafe.environment.horizon={HORIZON}",
    # The first reset starts a process, a JVM perhaps, on a machine that is busy starting vLLM's.
    "leafe.environment.step_timeout=300",
    f"leafe.budget.attempts={ATTEMPTS}",
    "leafe.reflection.interval=2",
    # Room for the longest answer that the grammar allows: random text seldom ends one early.
    "leafe.reflection.max_tokens=256",
    "leafe.reflection.max_characters=10",
    "leafe.context.window=1",
    # Random text improves on nothing.
    "leafe.distillation.events=every",
    # A byte is a token to this model.
    "data.max_prompt_length=4096",
    "data.max_response_length=4096",
    "trainer.total_training_steps=1",
    "trainer.save_freq=-1",
    "trainer.test_freq=-1",
]
DISTILLATION = DistillationSettings(events="every", incomplete_actions=True, rehearsal_share=1.0, recovery_targets=4)
"""The distillation settings that the preset, SETTINGS and launch.SMALL configure."""


def missing(name: str) -> str | None:
    """What the environment needs and is not there."""
    if name == "webshop" and not (importlib.util.find_spec("rank_bm25") and importlib.util.find_spec("rapidfuzz")):
        return "needs pip install leafe-verl[webshop]"
    return {"scienceworld": scienceworld.missing, "alfworld": alfworld.missing}.get(name, lambda: None)()


@dataclass(frozen=True)
class Run:
    """What a step of all environments left."""

    metrics: dict[str, float]
    trees: dict[str, list[ExplorationTree]]
    """By environment."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("environments")
    present = [name for name in ENVIRONMENTS if not missing(name)]
    rows = []
    for name in present:
        with (DATA / f"embedded_{name}_train.jsonl").open(encoding="utf-8") as lines:
            rows += [{"environment": name, "row": json.loads(line)} for line in itertools.islice(lines, TASKS)]
    tasks = folder / "mixed.jsonl"
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    files = [f"data.{each}_files={tasks}" for each in ("train", "val")]
    model = make_tiny_model(folder / "model")
    metrics = launch("leafe", model, folder, *SETTINGS, *files, f"data.train_batch_size={len(rows)}")[1]
    trees = {name: list[ExplorationTree]() for name in present}
    for tree, _ in read_trees(folder / "checkpoints" / "trees"):
        trees[tree.task.environment].append(tree)
    return Run(metrics, trees)


def test_all_that_was_explored_is_trained_on(run: Run) -> None:
    trees = [tree for each in run.trees.values() for tree in each]
    assert run.metrics["leafe/trees"] == len(trees) == TASKS * len(run.trees)
    kinds = [example.kind for tree in trees for example in build_examples(tree, DISTILLATION, 0)]
    assert run.metrics["leafe/examples/counterfactual"] == kinds.count(Kind.COUNTERFACTUAL) > 0
    assert run.metrics["leafe/updates"] > 0
    assert run.metrics["actor/loss_counterfactual"] > 0 and run.metrics["actor/grad_norm"] > 0


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_environment_goes_the_whole_way(run: Run, name: str) -> None:
    if problem := missing(name):
        pytest.skip(problem)
    for tree in run.trees[name]:
        assert [attempt.error for attempt in tree.attempts] == [None] * len(tree.attempts)
        assert len(tree.attempts) == ATTEMPTS and tree.reflections
        examples = build_examples(tree, DISTILLATION, 0)
        assert {Kind.COUNTERFACTUAL} <= {example.kind for example in examples}
    branches = [(tree, *branch) for tree in run.trees[name] for branch in tree.branches()]
    rolled_back = [(tree.attempts[index].replayed_steps, branch.step - 1) for tree, index, branch in branches]
    assert any(taken for _, taken in rolled_back), "every branch began at the start"
    assert all(replayed == (taken if name in REPLAYING else 0) for replayed, taken in rolled_back)
