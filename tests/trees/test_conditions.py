"""`--where`: what it compares and what it refuses."""

from datetime import UTC, datetime

import pytest

from leafe_verl.trees.conditions import parse_condition
from leafe_verl.trees.schema import SUMMARY

ROW = dict.fromkeys(SUMMARY) | {
    "step": 3,
    "task_key": "601",
    "solved": True,
    "best_return": 0.5,
    "collected_at": datetime(2026, 1, 2, tzinfo=UTC),
}


@pytest.mark.parametrize(
    "text, holds",
    [
        ("solved=true", True),
        ("solved = false", False),
        ("step>=3", True),
        ("step<3", False),
        ("step!=3", False),
        ("task_key=601", True),
        ("task_key<7", True),  # as texts
        ("task_key=a = b", False),
        ("best_return>0.25", True),
        ("collected_at>=2026-01-02", True),
        ("collected_at<2026-01-02T01:00+02:00", False),
        ("run=null", True),
        ("step!=null", True),
        ("model=x", False),
        ("model!=x", True),
        ("seed<5", False),
        ("seed>=5", False),
    ],
)
def test_conditions(text, holds):
    assert parse_condition(text).holds(ROW) is holds


@pytest.mark.parametrize(
    "text, said",
    [
        ("solved", "expected COLUMN OPERATOR VALUE"),
        ("__import__('os')", "expected COLUMN OPERATOR VALUE"),
        ("attempts=1", "no column 'attempts'; expected one of run, step"),
        ("solved=yes", "expected true or false"),
        ("step>x", "expected an integer"),
        ("best_return=high", "expected a number"),
        ("collected_at>now", "expected an ISO date"),
        ("step<null", "null takes no order"),
    ],
)
def test_what_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        parse_condition(text)
