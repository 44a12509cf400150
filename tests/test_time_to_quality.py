"""What the benchmark of time to quality makes of the validations and costs of runs."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

import pytest

from benchmarks import quality_levels
from benchmarks.quality_levels import GRPO, LEAFE, Point, Training, choose_rate, compare, levels, read_points
from leafe_verl.evaluation.validations import Validation, append_validation

TASKS = [f"task {number}" for number in range(8)]


def validation(solved):
    """Two attempts at each of eight tasks; `solved` of the tasks are solved by both."""
    return Validation({task: [index < solved] * 2 for index, task in enumerate(TASKS)})


def training(*solved, contestant=LEAFE, rate="1e-5", seed=0, minutes=10.0, score=0.0):
    points = [
        Point({"minutes": minutes * step, "environment steps": 60.0 * step, "sampled tokens": 900.0 * step}, each)
        for step, each in enumerate(map(validation, solved))
    ]
    return Training(contestant, rate, seed, points, score)


def test_a_level_is_what_a_run_ends_at_above_its_start_beyond_chance():
    assert list(levels(training(1, 3, 6))) == [(LEAFE, "Pass@1", 0.75), (LEAFE, "Pass@2", 0.75)]
    assert not list(levels(training(3, 6, 3))), "it ends where it began"
    assert not list(levels(training(3, 4))), "one task of eight is chance"


def test_a_level_is_reached_by_the_first_validation_after_training_began():
    run = training(1, 3, 6, 6)
    assert run.reaches("Pass@1", 0.75) is run.points[2] and run.reaches("Pass@1", 0.1) is run.points[1]
    assert run.reaches("Pass@1", 0.8) is None and run.reaches("Recovery", 0.0) is None, "no turn had a verdict"


def test_the_rows_name_whose_level_it_is_and_what_both_spent():
    ours, theirs = training(1, 5, 7), training(1, 2, 5, contestant=GRPO, minutes=15.0)
    rows = {row[0]: row[1:] for row in compare(ours, theirs)}
    assert rows["Pass@1 62.5 %, verl's GRPO's last"] == ["0", "10", "30", "60", "120", "900", "1800"]
    assert rows["Pass@1 87.5 %, LEAFE's last"] == ["0", "20", "–", "120", "–", "1800", "–"]


def test_a_contestant_counts_with_the_rate_that_is_best_on_other_tasks_over_its_seeds():
    runs = [training(1, 8, rate="1e-5", seed=seed, score=score) for seed, score in enumerate((0.7, 0.1))]
    runs += [training(1, 5, rate="3e-5", seed=seed, score=0.5) for seed in (0, 1)]
    runs += [training(1, 8, contestant=GRPO, score=0.9)]
    assert {seed: run.rate for seed, run in choose_rate(runs, LEAFE).items()} == {0: "3e-5", 1: "3e-5"}
    assert choose_rate(runs, GRPO)[0].rate == "1e-5"


def test_costs_are_those_of_training_up_to_each_validation(tmp_path):
    first = {"timing_s/step": 72.0, "timing_s/save_checkpoint": 12.0, "timing_s/testing": 600.0}
    steps = [{}, {**first, "leafe/environment_steps": 40}]
    steps += [{"timing_s/step": 30.0, "leafe/environment_steps": 50, "leafe/sampled_tokens": 700}]
    lines = [json.dumps({"step": step, "data": data}) for step, data in enumerate(steps)]
    (tmp_path / "metrics-1.jsonl").write_text("\n".join(lines) + "\n")
    for step, solved in enumerate((1, 3, 6)):
        append_validation(tmp_path, step, validation(solved))
    assert [point.costs["minutes"] for point in read_points(tmp_path)] == pytest.approx([0, 1, 1.5])
    assert [point.costs["environment steps"] for point in read_points(tmp_path)] == [0, 40, 90]


def test_a_run_that_has_not_ended_begins_anew_and_one_that_has_is_kept(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(quality_levels.__file__).parent)  # it is a script, beside what it imports
    time_to_quality = importlib.import_module("time_to_quality")
    ran = []

    def run(command, name, **variables):
        ran.append(name)

    monkeypatch.setattr(time_to_quality, "_run", run)
    monkeypatch.setattr(time_to_quality, "read_points", lambda folder: [])
    monkeypatch.setattr(time_to_quality, "read_figures", lambda folder: {"pass@1": 0.25})
    options = argparse.Namespace(out=tmp_path, steps=4, tasks=8, overrides=[], dev=tmp_path / "dev.jsonl")
    folder = tmp_path / "leafe_mbpp-1e-5-0"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("4")

    with pytest.raises(FileNotFoundError):  # the recipe of this test makes no folder
        time_to_quality.train(options, LEAFE, "1e-5", 0)
    assert ran == [folder.name] and not folder.exists()

    monkeypatch.setattr(time_to_quality, "_run", lambda command, name, **variables: folder.mkdir(exist_ok=True))
    assert time_to_quality.train(options, LEAFE, "1e-5", 0).score == 0.25
    monkeypatch.setattr(time_to_quality, "_run", run)
    time_to_quality.train(options, LEAFE, "1e-5", 0)
    assert ran[1:] == [f"{folder.name} on dev.jsonl"], "the evaluation goes on by itself"
    with pytest.raises(RuntimeError, match="holds a run with other arguments"):
        time_to_quality.train(argparse.Namespace(**{**vars(options), "tasks": 16}), LEAFE, "1e-5", 0)
