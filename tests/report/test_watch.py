"""A run watched while it goes on: what is read, what it is taken for, and what reaches the terminal."""

import io
import json
import os
import time

import pytest
import yaml
from rich.console import Console

from evaluation.stores import write_store
from leafe_verl.cli import main
from leafe_verl.report import progress
from leafe_verl.report.progress import RunFollower, RunPlan, read_plan
from leafe_verl.report.watch import frame, watch
from leafe_verl.trees import Provenance, TreeWriter, read_tree
from leafe_verl.trees.restarts import record_restart
from report.samples import HOSTILE, LONG_LINE, METRICS, hostile, rescued, written

CONFIGURATION = """
data: {train_batch_size: 2}
leafe:
  schedule: {stages: both, collect: batch}
  collection: {store: "${trainer.default_local_dir}/trees"}
trainer: {total_training_steps: 2, val_before_train: true, v1: {trainer_mode: leafe}}
"""


class Recipe:
    """Leaves on disk what a run of a recipe does."""

    def __init__(self, folder):
        self.folder, self.metrics = folder, folder / "metrics-1.jsonl"
        self.checkpoints = folder / "checkpoints"
        self.checkpoints.mkdir(parents=True)
        self.writer = TreeWriter(self.checkpoints / "trees")

    def configure(self, text=CONFIGURATION):
        (self.folder / "hydra" / ".hydra").mkdir(parents=True)
        (self.folder / "hydra" / ".hydra" / "config.yaml").write_text(text)

    def open_metrics(self):
        self.metrics.touch()
        os.utime(self.metrics, (1, 1))  # long before the first tree

    def log(self, step):
        with self.metrics.open("a") as file:
            file.write(json.dumps({"step": step, "data": METRICS[step]}) + "\n")

    def collect(self, tree, step):
        self.writer.append(tree, Provenance(run="leafe", step=step, seed=0))

    def save(self, step):
        (self.checkpoints / "latest_checkpointed_iteration.txt").write_text(str(step))


@pytest.fixture
def run(tmp_path):
    return Recipe(tmp_path / "leafe")


def printed(folder, **options):
    console = Console(file=io.StringIO(), width=100, **options)
    console.print(frame(RunFollower(folder).look()))
    return console.file.getvalue()


def test_a_run_is_followed_from_before_its_start_to_its_end(run):
    follower = RunFollower(run.folder)
    stages = []

    def look():
        found = follower.look()
        stages.append((found.stage, found.done, found.current.counts.get("trees", 0)))

    look()
    run.configure()
    look()
    run.open_metrics()
    look()
    run.log(0)
    look()
    run.collect(rescued("a"), 1)
    look()
    run.collect(rescued("b"), 1)
    look()
    run.save(1)
    look()
    run.log(1)
    run.collect(rescued("a"), 2)
    look()
    run.log(2)
    look()
    assert stages == [
        ("nothing written yet", 0, 0),
        ("starting", 0, 0),
        ("validating", 0, 0),
        ("collecting", 0, 0),
        ("collecting", 0, 1),
        ("distilling", 0, 2),
        ("validating", 0, 2),
        ("collecting", 1, 1),
        ("ended", 2, 0),
    ]


def test_what_was_read_is_not_read_again(run, monkeypatch):
    read = []
    monkeypatch.setattr(progress, "read_tree", lambda place: read.append(place) or read_tree(place))
    follower = RunFollower(run.folder)
    run.collect(rescued("a"), 1)
    follower.look()
    run.collect(rescued("b"), 1)
    looks = [follower.look().current.counts["trees"] for _ in range(2)]
    assert looks == [2, 2]
    assert len(read) == len(set(read)) == 2


def test_trees_of_steps_with_metrics_are_left_to_those(run, monkeypatch):
    read = []
    monkeypatch.setattr(progress, "read_tree", lambda place: read.append(place) or read_tree(place))
    for step in (1, 1, 1, 2, 2, 2, 3):
        run.collect(rescued(f"task-{len(read)}-{step}"), step)
    run.log(1)
    run.log(2)
    found = RunFollower(run.folder).look()
    assert len(read) == 2  # the one of step 3, and the newest before it, where one learns to stop
    assert found.current.counts["trees"] == 1
    assert found.whole.counts["trees"] == 16 + 16 + 1


def test_a_run_that_goes_on_from_a_checkpoint_does_its_steps_again(run):
    run.configure(CONFIGURATION.replace("val_before_train: true", "val_before_train: false"))
    run.log(1)
    run.log(2)
    run.save(1)
    run.collect(rescued("a"), 2)
    run.metrics = run.folder / "metrics-2.jsonl"
    run.metrics.touch()
    found = RunFollower(run.folder).look()
    assert (found.stage, found.done, list(found.metrics), found.current.counts["trees"]) == ("collecting", 1, [1], 1)


def test_without_metrics_the_trees_tell_the_step(run):
    run.configure()
    for step in (1, 1, 2):
        run.collect(rescued(f"task-{step}"), step)
    found = RunFollower(run.folder).look()
    assert (found.stage, found.done, found.current.counts["trees"]) == ("collecting", 1, 1)


def test_the_same_tree_stored_twice_counts_once(run):
    for _ in range(2):
        run.collect(rescued("a"), 1)
    assert RunFollower(run.folder).look().current.counts["trees"] == 1


def test_a_line_that_is_being_written_waits(run):
    run.log(1)
    with run.metrics.open("a") as file:
        file.write('{"step": 2, "da')
        file.flush()
        follower = RunFollower(run.folder)
        assert sorted(follower.look().metrics) == [1]
        file.write('ta": {"leafe/trees": 3}}\n')
    assert follower.look().metrics[2] == {"leafe/trees": 3}


def test_the_last_experience_is_one_that_the_model_wrote_with_its_outcome(run):
    run.collect(rescued("a", "do not jump"), 1)
    last_experience = RunFollower(run.folder).look().last_experience
    assert (last_experience.task_key, last_experience.reflection.experience, last_experience.improved) == (
        "a",
        "do not jump",
        True,
    )


def test_what_is_collected_a_second_is_told_from_the_end_of_the_step_before(run):
    run.open_metrics()
    os.utime(run.metrics, (time.time() - 100, time.time() - 100))
    run.collect(rescued("a"), 1)
    current = RunFollower(run.folder).look().current
    assert current.rate("environment_steps") == pytest.approx(6 / 100, rel=0.2)


@pytest.mark.parametrize(
    "change, plan",
    [
        ({}, RunPlan(steps=2, trees=2, explores=True, validates_first=True)),
        ({"batch}": "all}"}, RunPlan(steps=1, trees=None, explores=True, validates_first=True)),
        ({"both": "distil"}, RunPlan(steps=2, trees=2, explores=False, validates_first=False)),
        ({"trainer_mode: leafe": "trainer_mode: grpo"}, RunPlan(steps=2, trees=2, validates_first=True)),
    ],
)
def test_plans(change, plan):
    text = CONFIGURATION
    for old, new in change.items():
        text = text.replace(old, new)
    assert read_plan(yaml.safe_load(text)) == plan


def test_the_plan_of_another_version_is_what_is_there():
    assert read_plan({"trainer": {"total_training_steps": 7}}) == RunPlan(steps=7)


def test_a_frame_shows_progress_throughput_success_and_the_last_experience(run):
    run.configure()
    for step in (0, 1):
        run.log(step)
    run.collect(rescued("corridor-3"), 2)
    text = printed(run.folder)
    for expected in (
        "leafe  step 2 of 2: collecting",
        "1 of 2",
        "branches that improved",
        "25.0 % (15 of 60)",
        "Pass@1, mbpp",
        "actor/loss",
        "task corridor-3",
        "do not jump",
    ):
        assert expected in text


def test_hostile_text_reaches_no_terminal(run):
    run.collect(hostile(f"[bold red]{HOSTILE}[/]"), 1)
    text = printed(run.folder)
    assert "[bold red]</script>" in text
    assert all(character.isprintable() for character in text.replace("\n", ""))


def test_a_long_line_is_cut(run):
    run.collect(hostile(LONG_LINE), 1)
    assert len(printed(run.folder)) < 5000


def test_without_a_terminal_one_frame_is_printed(run, capsys):
    run.log(1)
    assert main(["watch", str(run.folder)]) == 0
    assert "leafe  step 2" in capsys.readouterr().out


def test_a_run_that_is_not_there_yet_has_a_frame(tmp_path, capsys):
    assert main(["watch", str(tmp_path / "later"), "--once"]) == 0
    assert "later  step 1: nothing written yet" in capsys.readouterr().out


def test_an_evaluation_is_refused(tmp_path, capsys):
    write_store(tmp_path / "store", {"a": "+"})
    assert main(["watch", str(tmp_path / "store")]) == 1
    assert "is an evaluation; expected RUN_DIR of a training run" in capsys.readouterr().err


def test_a_terminal_is_kept_up_to_date_until_the_run_ends(run, monkeypatch):
    run.configure()
    run.log(0)
    meanwhile = [lambda: run.collect(rescued("a"), 1), lambda: run.log(1), lambda: run.log(2)]
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        meanwhile.pop(0)()

    monkeypatch.setattr("time.sleep", sleep)
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    assert watch(run.folder, interval=3, console=console) == 0
    assert waited == [3, 3, 3]
    assert "ended" in console.file.getvalue()


def test_an_interrupt_ends_watching(run, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    assert watch(run.folder, console=Console(file=io.StringIO(), force_terminal=True)) == 0


def test_recovery_is_shown_for_the_step_and_the_run(run):
    run.configure()
    run.collect(written(3), 1)
    tree_counts = RunFollower(run.folder).look().current.counts
    assert tree_counts["recovery/attempts"] == 4 and tree_counts["recovery/failures"] > 0
    assert "recovered after a failed turn" in printed(run.folder)
    assert "fresh sample on these failures" in printed(run.folder)


def test_what_a_run_has_given_up_is_not_followed(run):
    run.log(1)
    run.log(2)
    run.collect(rescued("a"), 2)
    record_restart(run.checkpoints / "trees", "leafe", 0)
    run.metrics = run.folder / "metrics-2.jsonl"
    run.log(1)
    run.collect(rescued("b"), 2)
    found = RunFollower(run.folder).look()
    assert (list(found.metrics), found.current.counts["trees"]) == ([1], 1)
