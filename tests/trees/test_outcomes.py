"""How often each task was solved of late, as a store knows it."""

import dataclasses

import pyarrow as pa

from leafe_verl.core.curriculum import TaskOutcomes
from leafe_verl.core.tree import Outcome
from leafe_verl.trees.listing import list_trees
from leafe_verl.trees.outcomes import read_outcomes
from leafe_verl.trees.restarts import record_restart
from leafe_verl.trees.rows import to_row
from leafe_verl.trees.schema import SCHEMA
from trees.stores import provenance, rescued, wandered, write


def outcomes(store, before=10, latest=4, run="first"):
    return read_outcomes(store, run=run, before=before, latest=latest)


def test_the_attempts_of_all_trees_of_a_task_are_added_up(tmp_path):
    write(tmp_path, (rescued("a"), provenance(1)), (rescued("b"), provenance(1)))
    write(tmp_path, (rescued("a"), provenance(2, hours=1)))
    assert outcomes(tmp_path) == {"a": TaskOutcomes(4, 2), "b": TaskOutcomes(2, 1)}


def test_unscored_attempts_do_not_count(tmp_path):
    tree = wandered(1)
    tree.attempts[-1] = dataclasses.replace(tree.attempts[-1], outcome=Outcome.POLICY_FAILURE)
    write(tmp_path, (tree, provenance(1)))
    (found,) = outcomes(tmp_path).values()
    assert found.attempts == sum(attempt.outcome.scored for attempt in tree.attempts) < len(tree.attempts)


def test_the_newest_trees_alone_count(tmp_path):
    write(tmp_path, *((rescued("a"), provenance(step, hours=step)) for step in range(6)))
    assert outcomes(tmp_path, latest=2) == {"a": TaskOutcomes(4, 2)}


def test_later_steps_of_the_run_itself_do_not_count_and_other_runs_do(tmp_path):
    write(tmp_path, (rescued("a"), provenance(3)), (rescued("b"), provenance(4)))
    write(tmp_path, (rescued("c"), provenance(9, run="second")))
    assert set(outcomes(tmp_path, before=4)) == {"a", "c"}


def test_what_a_run_has_given_up_and_duplicates_do_not_count(tmp_path):
    write(tmp_path, (rescued("a"), provenance(1)), (rescued("a"), provenance(1)), (rescued("b"), provenance(2)))
    record_restart(tmp_path, "first", 1)
    assert outcomes(tmp_path) == {"a": TaskOutcomes(2, 1)}
    assert [*list_trees(tmp_path)][-1] == "1 trees, 1 solved"


def test_trees_of_earlier_versions_say_nothing(tmp_path):
    schema = SCHEMA.remove(SCHEMA.get_field_index("num_scored"))
    with pa.ipc.new_stream(str(tmp_path / "trees-old.arrow"), schema) as stream:
        stream.write_batch(pa.RecordBatch.from_pylist([to_row(rescued(), provenance())], schema=schema))
    assert outcomes(tmp_path) == {} == outcomes(tmp_path / "nowhere")
