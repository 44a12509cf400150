"""Recovery targets in a store, in what is printed of it, in exports and in the report."""

import dataclasses

import pyarrow as pa
import pytest

from leafe_verl.cli import main
from leafe_verl.core import Kind, Outcome, RecoveryTarget, build_examples
from leafe_verl.core.settings import DistillationSettings
from leafe_verl.core.statistics import count
from leafe_verl.report.records import build_record
from leafe_verl.report.sources import ReportedTree
from leafe_verl.trees import TreeWriter, read_trees
from leafe_verl.trees.copying import copy_trees
from leafe_verl.trees.export import ExportOptions, export
from leafe_verl.trees.export_rows import sound_rows
from leafe_verl.trees.listing import show_tree
from leafe_verl.trees.reader import join_trees
from leafe_verl.trees.rows import to_row
from leafe_verl.trees.schema import SCHEMA
from leafe_verl.trees.verification import verify
from leafe_verl.trees.writer import RecordFile
from quiz import RIGHT, confirm, played
from trees.stores import provenance, write

SETTINGS = DistillationSettings(recovery_targets=9, rehearsal_share=0.0, context_mask=0.5)


def recovered():
    """x y, and a and b, which x spoils: after x, and after x y."""
    tree = played(["x", "y", "z"], ["a"], ["b"], data=RIGHT | {"spoiled": {"b": "y"}})
    confirm(tree)
    assert len(tree.recovery_targets) == 4 and sum(each.confirmed for each in tree.recovery_targets) == 3
    return tree


def read(folder):
    ((tree, _),) = read_trees(folder)
    return tree


def test_come_back_and_so_do_their_examples(tmp_path):
    tree = recovered()
    write(tmp_path, (tree, provenance()))
    found = read(tmp_path)
    assert found.recovery_targets == tree.recovery_targets
    assert build_examples(found, SETTINGS, 0, mask_id=9) == build_examples(tree, SETTINGS, 0, mask_id=9)
    assert count(found, []) == count(tree, [])
    result = verify(tmp_path)
    assert (result.problems, result.counts["recovery_targets"]) == ([], 4)


@pytest.mark.parametrize("recoveries", [None, []])
def test_none_looked_for_differs_from_none_found(tmp_path, recoveries):
    tree = played(["x", "y"], ["a"])
    tree.recovery_targets = recoveries
    write(tmp_path, (tree, provenance()))
    assert read(tmp_path).recovery_targets == recoveries


def test_a_store_of_an_earlier_version_has_none(tmp_path):
    row, old = to_row(recovered(), provenance()), SCHEMA.remove(SCHEMA.get_field_index("recoveries"))
    del row["recoveries"]
    row["environment_steps"] = 5
    file = RecordFile(tmp_path / "trees-old.arrow", old)
    file.append(pa.RecordBatch.from_pylist([row], schema=old))
    file.close()
    assert read(tmp_path).recovery_targets is None and verify(tmp_path).problems == []
    copy_trees([tmp_path], tmp_path / "copy")
    assert read(tmp_path / "copy").recovery_targets is None


@pytest.mark.parametrize(
    ("recovery", "said"),
    [
        (RecoveryTarget(7, 2, 1, Outcome.SUCCESS), "attempt 7 has no step 2 after a failed turn"),
        (RecoveryTarget(0, 1, 1, Outcome.SUCCESS), "attempt 0 has no step 1 after"),
        (RecoveryTarget(0, 4, 1, Outcome.SUCCESS), "attempt 0 has no step 4 after"),
        (RecoveryTarget(0, 2, 0, Outcome.SUCCESS), "a recovery target is of attempt 0, no successful one"),
    ],
)
def test_what_points_outside_the_tree_is_no_tree(tmp_path, recovery, said):
    tree = recovered()
    tree.recovery_targets = [recovery]
    with TreeWriter(tmp_path) as writer:
        writer.append(tree, provenance())
    (problem,) = verify(tmp_path).problems
    assert said in problem


def test_are_shown(tmp_path):
    tree = played(["x", "y"], ["a"])
    confirm(tree)
    write(tmp_path, (tree, provenance()))
    last = show_tree(tmp_path, "quiz").splitlines()[-1]
    assert last == "recovery target, the last action of attempt 1 after step 1 of attempt 0: success"


def test_move_with_their_attempts_where_trees_are_joined():
    tree = played(["x", "y"], ["a"])
    confirm(tree)
    joined = join_trees([tree, tree])
    assert [(each.attempt, each.source) for each in joined.recovery_targets] == [(0, 1), (2, 3)]
    assert join_trees([played(["x"])]).recovery_targets is None


@pytest.mark.parametrize(("form", "folded"), [("trl", False), ("verl", True)])
def test_are_exported_with_the_action_that_recovers(form, folded):
    tree = recovered()
    for example in build_examples(tree, SETTINGS, 0):
        ((row, _),) = sound_rows(tree, example, provenance(), form)
        answer = (row["messages"] if form == "verl" else row["completion"])[-1]
        assert answer == {"role": "assistant", "content": tree.path(example.source)[-1].action.text}
        assert (row["kind"], row["turns"], row["folded"]) == ("recovery", [example.step], folded)
        assert len(row.get("prompt", ())) in (0, 2 * example.step - 1)


def test_are_exported_where_asked_for(tmp_path):
    write(tmp_path / "store", (recovered(), provenance()))
    for targets in (0, 2):
        settings = dataclasses.replace(ExportOptions(), settings=DistillationSettings(recovery_targets=targets))
        counts = export(tmp_path / "store", tmp_path / f"{targets}.jsonl", settings)
        assert counts[Kind.RECOVERY.value] == targets


def test_are_shown_in_the_report_on_the_action_that_recovers():
    tree = recovered()
    examples = tuple(build_examples(tree, SETTINGS, 0))
    record, tokens = build_record(ReportedTree(tree, examples, 1, has_tokens=True))
    for told, example in zip(record["examples"], examples, strict=True):
        assert told["kind"] == "recovery" and told["parts"] == [(example.source, 1, 0)] and told["tokens"] == 2
    assert record["attempts"][1]["steps"][0]["tokens"] == [ord("a"), 4]
    assert not any("tokens" in step for step in record["attempts"][0]["steps"])
    assert tokens == {ord("a"), ord("b"), 4}


@pytest.fixture
def run_dir(tmp_path):
    write(tmp_path / "run" / "checkpoints" / "trees", (recovered(), provenance()))
    return tmp_path / "run"


def export_by_command(run_dir, *arguments):
    out = run_dir / f"examples-{len(arguments)}.jsonl"
    return main(["trees", "export", str(run_dir / "checkpoints" / "trees"), "--out", str(out), *arguments])


def test_all_that_a_store_holds_are_exported(run_dir, capsys):
    assert export_by_command(run_dir) == 0
    assert ", 3 recovery, " in capsys.readouterr().out
    assert export_by_command(run_dir, "--recovery-targets", "1") == 0
    assert ", 1 recovery, " in capsys.readouterr().out


def test_none_at_all_of_the_kind_that_was_asked_for_is_refused(run_dir, capsys):
    assert export_by_command(run_dir, "--kinds", "recovery", "--recovery-targets", "0") == 1
    assert "expected --recovery-targets of at least 1" in capsys.readouterr().err


def test_the_examples_of_a_run_are_exported_as_it_drew_them(run_dir, capsys):
    (run_dir / "hydra" / ".hydra").mkdir(parents=True)
    drawn = "recovery_targets: 2, recovery_loss: kl, rehearsal: at_once, rehearsal_share: 1.0"
    (run_dir / "hydra" / ".hydra" / "config.yaml").write_text(f"leafe: {{distillation: {{{drawn}}}}}\n")
    assert export_by_command(run_dir) == 0
    said = capsys.readouterr().out
    assert said.startswith("settings of examples: those of ") and ", 2 rehearsal, 2 recovery, " in said
    assert export_by_command(run_dir, "--recovery-targets", "3") == 0
    assert ", 2 rehearsal, 3 recovery, " in capsys.readouterr().out
    elsewhere = run_dir.rename(run_dir.with_name("disk"))
    run_dir.mkdir()
    (run_dir / "checkpoints").symlink_to(elsewhere / "checkpoints")
    (elsewhere / "hydra").rename(run_dir / "hydra")
    assert export_by_command(run_dir) == 0
    assert ", 2 rehearsal, 2 recovery, " in capsys.readouterr().out, "checkpoints may lie on another disk"
