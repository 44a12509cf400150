"""What the agent loops of one rollout worker share."""

import pytest

pytest.importorskip("verl", reason="verl is not installed; recipes/setup.sh installs it")

from leafe_verl.plugin.rollout.worker_state import WorkerState


def test_the_attempts_at_a_row_are_kept_together_in_the_order_in_which_they_began():
    state, kept = WorkerState(), []
    state.sessions |= {"a": 3, "b": 1}
    state.keep("a", 2, lambda: kept.append("a2"))
    state.keep("a", 0, lambda: kept.append("a0"))
    assert kept == [], "those that end first have succeeded more often"
    state.keep("b", 0, lambda: kept.append("b0"))
    state.keep("a", 1, lambda: kept.append("a1"))
    assert kept == ["b0", "a0", "a1", "a2"]


def test_what_an_error_has_left_of_a_row_is_kept_at_its_end():
    state, kept = WorkerState(), []
    state.sessions["a"] = 2
    state.keep("a", 1, lambda: kept.append("a1"))
    for _ in range(2):
        state.keep_row("a")
    assert kept == ["a1"]
