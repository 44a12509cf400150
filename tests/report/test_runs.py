"""What is found in a folder, and the verb."""

import json
import subprocess
import sys

import pytest

from evaluation.stores import write_store, write_trees
from leafe_verl.cli import main
from leafe_verl.core import Outcome, Settings
from leafe_verl.report.runs import distinct_names, find_run
from leafe_verl.report.stored_trees import draw_examples, training_trees
from leafe_verl.run_settings import read_configuration, read_example_settings
from leafe_verl.trees import Provenance, TreeWriter
from report.samples import METRICS, rescued, wandered

CONFIGURATION = "leafe:\n  seed: 3\n  distillation:\n    rehearsal_share: 1.0\n"


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "leafe"
    with TreeWriter(folder / "checkpoints" / "trees") as writer:
        for step, tree in ((2, rescued("b")), (1, rescued("c")), (1, rescued("a"))):
            writer.append(tree, Provenance(run="leafe", step=step, seed=0))
    lines = [json.dumps({"step": step, "data": values}) + "\n" for step, values in METRICS.items()]
    (folder / "metrics-1.jsonl").write_text("".join(lines))
    (folder / "hydra" / ".hydra").mkdir(parents=True)
    (folder / "hydra" / ".hydra" / "config.yaml").write_text(CONFIGURATION)
    return folder


def test_a_training_run_has_metrics_and_trees_with_the_examples_it_chose(run_dir):
    run = find_run(run_dir)
    trees = list(run.trees)
    assert [(each.step, each.tree.task.key) for each in trees] == [(1, "a"), (1, "c"), (2, "b")]
    assert [len(each.examples) for each in trees] == [2, 2, 2]
    assert (run.name, list(run.metrics), run.notes) == ("leafe", [0, 1, 2], ())


def test_a_store_alone_is_reported_with_default_settings(run_dir):
    run = find_run(run_dir / "checkpoints" / "trees")
    assert len(list(run.trees)) == 3
    assert any("default settings" in note for note in run.notes) and any("No metrics" in note for note in run.notes)


def test_settings_of_another_version_are_named():
    choice = read_example_settings({"leafe": {"distillation": {"flavour": 1}}})
    assert choice.note and "leafe.distillation.flavour is not a setting" in choice.note


def test_attempts_of_a_task_are_the_roots_of_one_tree(tmp_path):
    run = find_run(write_store(tmp_path / "store", {"a": "+-?", "b": "-"}))
    trees = [each.tree for each in run.trees]
    assert [[attempt.outcome for attempt in tree.attempts] for tree in trees] == [
        [Outcome.SUCCESS, Outcome.FAILURE, Outcome.ENVIRONMENT_FAILURE],
        [Outcome.FAILURE],
    ]
    assert dict(run.results) == {"a": [True, False], "b": [False]}


def test_trees_of_an_evaluation_keep_their_branches(tmp_path):
    run = find_run(write_trees(tmp_path / "store", {"a": ["-", "+"]}))
    (reported,) = run.trees
    branch = reported.tree.attempts[1].branch
    assert branch and (branch.parent, branch.step, branch.reflection.text) == (0, 1, "{}")
    assert not reported.has_tokens and reported.has_prompts and run.explores


def test_a_tree_cut_short_is_skipped(tmp_path):
    store = write_store(tmp_path / "store", {"a": "+", "b": "+"})
    (path,) = store.glob("trees-*.arrow")
    path.write_bytes(path.read_bytes()[:-9])
    assert len(list(find_run(store).trees)) == 1


def test_a_tree_without_examples_says_why(monkeypatch):
    tree = rescued()
    tree.attempts[1].steps[1].history.__dict__["token_ids"] = (9,)  # as a template that rewrites earlier turns does
    examples, note = draw_examples(
        tree, read_example_settings({"leafe": {"distillation": {"rehearsal_share": 1}}}).settings, 0
    )
    assert examples == () and note and "the chat template rewrote them" in note


def test_names_tell_runs_apart(tmp_path):
    assert distinct_names([tmp_path / "a" / "evaluation"]) == ["evaluation"]
    folders = [tmp_path / "a" / "evaluation", tmp_path / "b" / "evaluation"]
    assert distinct_names(folders) == ["a/evaluation", "b/evaluation"]


def test_the_verb_writes_beside_the_run_and_says_where(run_dir, capsys):
    assert main(["report", str(run_dir)]) == 0
    assert f"written: {run_dir / 'report.html'} (3 trees, " in capsys.readouterr().out
    assert main(["report", str(run_dir), "--out", str(run_dir / "new" / "other.html")]) == 0
    assert (run_dir / "new" / "other.html").is_file()


def test_an_existing_folder_takes_the_report(run_dir, tmp_path, capsys):
    folder = tmp_path / "reports.d"
    folder.mkdir()
    assert main(["report", str(run_dir), "--out", str(folder)]) == 0
    assert f"written: {folder / 'report.html'} (3 trees, " in capsys.readouterr().out
    assert [path.name for path in folder.iterdir()] == ["report.html"]


def test_a_place_that_takes_no_file_is_said(run_dir, tmp_path, capsys):
    (tmp_path / "file").touch()
    for verb in (["report", "--out"], ["watch", "--svg"]):
        assert main([verb[0], str(run_dir), verb[1], str(tmp_path / "file" / "report.html")]) == 1
        assert str(tmp_path / "file") in capsys.readouterr().err


def test_a_torn_configuration_is_none(run_dir):
    path = run_dir / "hydra" / ".hydra" / "config.yaml"
    for text in ("a: [1", "- 1", "\x00"):
        path.write_text(text)
        assert read_configuration(path) == {}


def test_a_folder_with_nothing_to_report_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    assert "nothing to report; expected metrics-*.jsonl or checkpoints/trees" in capsys.readouterr().err


def test_a_run_of_stage_2_alone_shows_the_trees_that_it_was_given(run_dir):
    (run_dir / "checkpoints" / "trees").rename(run_dir.parent / "explored")
    chosen = f"leafe:\n  collection:\n    store: {run_dir.parent / 'explored'}\n"
    (run_dir / "hydra" / ".hydra" / "config.yaml").write_text(chosen)
    run = find_run(run_dir)
    assert [each.tree.task.key for each in run.trees] == ["a", "c", "b"]
    assert any(f"given: {run_dir.parent / 'explored'}" in note for note in run.notes)


def test_a_run_shows_its_own_trees_of_a_store_that_it_shares_drawn_with_its_own_seed(run_dir):
    store = (run_dir / "checkpoints" / "trees").rename(run_dir.parent / "shared")
    with TreeWriter(store) as writer:
        writer.append(rescued("d"), Provenance(run="other", step=1, seed=0))
    configuration = run_dir / "hydra" / ".hydra" / "config.yaml"
    chosen = f"leafe:\n  seed: 7\n  collection:\n    store: {store}\n  schedule:\n    stages: STAGES\n"
    chosen += "trainer:\n  experiment_name: leafe\n"
    for stages, shown in (("both", ["a", "c", "b"]), ("distil", ["a", "c", "b", "d"])):
        configuration.write_text(chosen.replace("STAGES", stages))
        assert [each.tree.task.key for each in find_run(run_dir).trees] == shown
    drawn = [each.examples for each in training_trees(store, Settings().distillation, 7, "leafe")]
    assert drawn == [draw_examples(each.tree, Settings().distillation, 7)[0] for each in find_run(run_dir).trees][:3]


def test_a_report_of_metrics_alone_is_an_overview(run_dir):
    run = find_run(run_dir)
    (run_dir / "checkpoints" / "trees").rename(run_dir / "elsewhere")
    run = find_run(run_dir)
    assert list(run.trees) == [] and any("No tree was stored" in note for note in run.notes)


def test_reports_need_no_training_stack():
    code = "import sys, leafe_verl.report.document\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not {"verl", "torch", "ray", "vllm", "tokenizers", "yaml"} & set(done.stdout.split())


def test_a_tree_of_many_shapes_is_read_back(tmp_path):
    with TreeWriter(tmp_path) as writer:
        for seed in range(3):
            writer.append(wandered(seed), Provenance(step=1, seed=0))
    assert len(list(find_run(tmp_path).trees)) == 3
