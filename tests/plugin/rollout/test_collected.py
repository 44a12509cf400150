"""The store of trees as a rollout worker sees it."""

import threading

import pytest

from fakes import TASK, ScriptedPolicy, World, grow
from leafe_verl.plugin.rollout.collected import CollectedTrees
from leafe_verl.plugin.rollout.worker_state import WorkerState
from leafe_verl.trees import Provenance
from leafe_verl.trees.restarts import FILE, record_restart


def view(store, run="r", tokenizer="t"):
    """The store as a run with this name and tokenizer sees it."""
    return CollectedTrees(store, run=run, tokenizer=tokenizer)


@pytest.fixture
def tree():
    return grow(ScriptedPolicy({"0": "R", "1": "R", "2": "R"}))


def test_what_an_earlier_process_kept_is_found_by_its_step(tmp_path, tree):
    view(tmp_path).keep(tree, Provenance(run="r", step=4))
    later = view(tmp_path)
    found = later.find(4, TASK.key)
    assert [attempt.outcome for attempt in found.attempts] == [attempt.outcome for attempt in tree.attempts]
    assert later.find(5, TASK.key) is None and later.find(4, "another") is None


def test_all_trees_of_a_task_are_found_in_order(tmp_path, tree):
    store = view(tmp_path)
    for step in (1, 2):
        store.keep(tree, Provenance(run="r", step=step))
    assert len(view(tmp_path).find_all(TASK.key)) == 2
    assert view(tmp_path).find_all("another") == []


def test_a_run_goes_on_with_its_own_trees_and_stage_two_alone_takes_those_of_every_run(tmp_path, tree):
    view(tmp_path).keep(tree, Provenance(run="r", step=4))
    assert view(tmp_path, run="another").find(4, TASK.key) is None, "of another policy, which is to explore itself"
    assert view(tmp_path, run="r").find(4, TASK.key) is not None, "started again"
    assert len(view(tmp_path, run="another").find_all(TASK.key)) == 1


def test_what_a_run_that_was_sent_back_has_given_up_is_not_its_own(tmp_path, tree):
    for step in (2, 4):
        view(tmp_path).keep(tree, Provenance(run="r", step=step))
    record_restart(tmp_path, "another", 0)
    assert view(tmp_path).find(4, TASK.key) is not None
    record_restart(tmp_path, "r", 3)
    with (tmp_path / FILE).open("a") as file:
        file.write('{"run": "r", "st')  # a kill has torn it
    assert view(tmp_path).find(4, TASK.key) is None and view(tmp_path).find(2, TASK.key) is not None
    view(tmp_path).keep(tree, Provenance(run="r", step=4))
    assert view(tmp_path).find(4, TASK.key) is not None, "collected since"


def test_a_tree_that_an_outage_has_left_is_collected_again(tmp_path, tree):
    broken = grow(ScriptedPolicy(lambda messages: "R"), World(options={"no_such_option": True}))
    view(tmp_path).keep(broken, Provenance(run="r", step=4))
    assert view(tmp_path).find(4, TASK.key) is None and view(tmp_path).find_all(TASK.key) == []
    view(tmp_path).keep(tree, Provenance(run="r", step=4))
    found = [view(tmp_path).find(4, TASK.key), *view(tmp_path).find_all(TASK.key)]
    assert [len(each.attempts) for each in found] == [len(tree.attempts)] * 2


def test_trees_of_another_tokenizer_are_refused(tmp_path, tree):
    view(tmp_path).keep(tree, Provenance(run="r", step=4, tokenizer="9-abc", model="small"))
    assert view(tmp_path, tokenizer="9-abc").find(4, TASK.key) is not None
    said = r"tokenizer 9-abc, that of the model small; expected t, .*MODEL.*leafe\.collection\.store"
    for look in (lambda store: store.find(4, TASK.key), lambda store: store.find_all(TASK.key)):
        with pytest.raises(ValueError, match=said):
            look(view(tmp_path))


def test_trees_without_tokens_are_refused(tmp_path, tree):
    view(tmp_path).keep(tree, Provenance(has_tokens=False))
    with pytest.raises(ValueError, match=r"stored without tokens.*leafe\.collection\.store"):
        view(tmp_path).find_all(TASK.key)


def test_a_disk_that_takes_nothing_is_named_with_its_setting(tmp_path, tree):
    (tmp_path / "store").write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"leafe\.collection\.store") as raised:
        view(tmp_path / "store").keep(tree, Provenance())
    assert TASK.key in str(raised.value)


def test_threads_share_one_view_of_a_store(tmp_path):
    state, seen = WorkerState(), []
    threads = [
        threading.Thread(target=lambda: seen.append(state.collected_trees(str(tmp_path), run="r", tokenizer="t")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8 and len(set(map(id, seen))) == 1
