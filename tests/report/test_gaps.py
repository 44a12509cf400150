"""Metrics that are no numbers, as verl and others write them: every reader goes on, with a gap there."""

import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from leafe_verl.activity import Activity
from leafe_verl.cli import main
from leafe_verl.console.narration import Narrator
from leafe_verl.evaluation.comparison import training_cost
from leafe_verl.evaluation.metric_lines import parse_line
from leafe_verl.evaluation.summary import read_metrics, render_summary
from leafe_verl.experiments.budget import spent
from leafe_verl.report.overview import build_overview
from leafe_verl.report.present import collected_text
from leafe_verl.report.progress import RunFollower
from leafe_verl.report.runs import find_run
from leafe_verl.report.watch import frame
from leafe_verl.trees import Provenance, TreeWriter
from report.samples import rescued

WHOLE = {
    "leafe/trees": 4, "leafe/attempts": 8, "leafe/environment_steps": 20, "leafe/sampled_tokens": 300,
    "actor/loss": 0.5, "timing_s/step": 60.0, "timing_s/gen": 30.0, "timing_s/testing": 6.0,
    "val-core/mbpp/pass@1": 0.25, "val-core/mbpp/recovery": 0.1, "val-aux/mbpp/recovery_1": 0.1,
}  # fmt: skip
ABSENT = ["null", "NaN", "Infinity", "-Infinity"]
HUGE = "9" * 400
"""An integer beyond the largest float."""
GAPS = [*ABSENT, '"nan"', "[1]", "{}", HUGE]


def line(step, values):
    return json.dumps({"step": step, "data": values})


def write(folder, gap):
    """Write a whole line of steps 0, 1 and 3, and one of step 2 whose values are all gaps."""
    gone = "{" + ", ".join(f'"{name}": {gap}' for name in WHOLE) + "}"
    lines = [line(0, WHOLE), line(1, WHOLE), f'{{"step": 2, "data": {gone}}}', "", '{"step": 3, "da', line(3, WHOLE)]
    folder.mkdir(exist_ok=True)
    (folder / "metrics-1.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("gap", GAPS)
def test_a_value_that_is_no_number_is_left_out_and_a_loss_stays_as_nan(tmp_path, gap):
    metrics = read_metrics(write(tmp_path, gap))
    assert [metrics[step] for step in (0, 1, 3)] == [WHOLE] * 3
    if gap in ABSENT:
        assert list(metrics[2]) == ["actor/loss"] and math.isnan(metrics[2]["actor/loss"])
    else:
        assert metrics[2] == {}


@pytest.mark.parametrize("gap", GAPS)
def test_every_reader_goes_on_with_a_gap(tmp_path, gap):
    folder = write(tmp_path / "run", gap)
    overview = build_overview(find_run(folder), {})
    charts = {chart["title"]: chart for chart in overview["charts"]}
    losses = dict(zip(charts["Losses"]["xs"], charts["Losses"]["series"][0]["values"], strict=True))
    assert losses.pop(2, None) is None and losses == {1: 0.5, 3: 0.5}
    assert ["attempts", "16"] in overview["tables"][0]["rows"]
    assert ["minutes in training steps", "3.0"] in overview["tables"][0]["rows"], "step 0 has logged a time as well"
    table = [row.split() for row in render_summary(read_metrics(folder)).splitlines()]
    assert ["attempts", "16"] in table and ["mbpp", "Pass@1", "25.0", "%", "25.0", "%", "+0.0"] in table
    assert spent(folder)["environment_steps"] == 40
    progress = RunFollower(folder).look()
    assert progress.done == 3 and progress.whole.counts["attempts"] == 16
    narrator = Narrator()
    narrator.lines(replace(progress, metrics={1: WHOLE}), 0.0)
    told = ["step 2: loss nan"] if gap in ABSENT else []
    assert narrator.lines(progress, 0.0) == [*told, "step 3: loss 0.5, Pass@1 25.0 %, recovery 10.0 %"]


@pytest.mark.parametrize("gap", GAPS)
def test_the_last_step_may_be_a_gap_for_the_one_who_watches(tmp_path, gap):
    folder = write(tmp_path / "run", gap)
    file = folder / "metrics-1.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[:3]) + "\n")
    console = Console(file=io.StringIO(), width=100)
    console.print(frame(RunFollower(folder).look()))
    shown = console.file.getvalue()
    assert "step 3" in shown and "Pass@1" in shown
    assert ("nan" in shown) == (gap in ABSENT), "that a loss is no number is said"


def test_the_cost_of_training_counts_what_is_known(tmp_path):
    assert training_cost([str(write(tmp_path / "run", "null"))]) == {"environment steps": 40, "sampled tokens": 600}


def test_phrases_are_of_known_counts_alone(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics-1.jsonl").write_text('{"step": 1, "data": {"leafe/trees": 4, "leafe/attempts": null}}\n')
    activity = Activity("collecting", step=1)
    assert list(collected_text(activity, RunFollower(folder).look())) == []


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"step": null, "data": {}}', '{"step": 1}', '{"step": 1, "data": []}', "\x00\x00"]
)
def test_what_is_no_line_of_metrics_is_passed_over(text):
    assert parse_line(text) is None


def test_a_run_whose_metrics_are_still_empty_is_reported_by_its_trees(tmp_path, capsys):
    with TreeWriter(tmp_path / "checkpoints" / "trees") as writer:
        writer.append(rescued(), Provenance(step=1, seed=0))
    (tmp_path / "metrics-1.jsonl").touch()
    assert main(["report", str(tmp_path)]) == 0
    assert "(1 tree," in capsys.readouterr().out
    assert "No metrics were found" in " ".join(find_run(tmp_path).notes)
