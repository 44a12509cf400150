"""The figures of recovery in validation, on their way through verl's own metrics."""

import pytest

from leafe_verl.core.recovery_figures import PlainAttempt
from leafe_verl.plugin.training.validation import recovery_metrics

RIGHT, RECOVERED = PlainAttempt(True, 1, (), 0), PlainAttempt(True, 2, (1,), 0)
REPEATED, OTHER = PlainAttempt(False, 2, (1,), 1), PlainAttempt(False, 2, (1,), 0)


def test_each_data_source_has_figures_over_its_tasks():
    rows = [("mbpp", "a", RIGHT), ("mbpp", "a", RECOVERED), ("mbpp", "b", REPEATED), ("mbpp", "b", OTHER)]
    found = recovery_metrics([*rows, ("mbpp", "c", None), ("other", "a", RIGHT)])
    # Of the three failures one has another attempt of its task that is right at once.
    third = pytest.approx(1 / 3)
    assert found == {
        "val-aux/mbpp/failures": 3, "val-core/mbpp/recovery": third, "val-core/mbpp/recovery_fresh": third,
        "val-core/mbpp/repeat": third, "val-core/mbpp/first_turn": 0.25, "val-aux/mbpp/recovery_1": third,
        "val-aux/mbpp/recovery_fresh_1": third, "val-aux/other/failures": 0, "val-core/other/first_turn": 1.0,
    }  # fmt: skip


def test_rows_without_attempts_have_no_figures():
    assert recovery_metrics([("mbpp", "a", None)]) == {}


def test_verl_passes_over_the_text_that_carries_an_attempt():
    metrics = pytest.importorskip("verl.trainer.ppo.metric_utils", reason="verl is not installed")
    from leafe_verl.plugin.wire import attempt_to_info, attempts_from_infos

    attempts = [RIGHT, REPEATED]
    infos = [{"acc": 1.0, **attempt_to_info(attempt)} for attempt in attempts]
    columns = {name: [info[name] for info in infos] for name in infos[0]}
    found = metrics.process_validation_metrics(["mbpp"] * 2, ["a"] * 2, columns)
    assert list(found["mbpp"]) == ["acc"]
    assert attempts_from_infos(columns, 2) == attempts
    assert attempts_from_infos({"acc": [1.0, 0.0]}, 2) == [None, None]
