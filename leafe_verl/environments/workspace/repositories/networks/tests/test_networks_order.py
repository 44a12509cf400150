from networks.build import build
from networks.order import finish_times, in_order, levels

TASKS = build([("wash", "dry", 1), ("dry", "iron", 1), ("buy", "iron", 1)])


def test_in_order():
    assert in_order(TASKS) == ["buy", "wash", "dry", "iron"]
    assert in_order(build([("a", "b", 1), ("b", "a", 1)])) is None


def test_levels():
    assert levels(TASKS) == {"buy": 0, "wash": 0, "dry": 1, "iron": 2}


def test_finish_times():
    durations = {"wash": 3, "dry": 5, "iron": 2, "buy": 4}
    assert finish_times(TASKS, durations) == {"buy": 4, "wash": 3, "dry": 8, "iron": 10}
