from stock.reorder import average, days_left, pieces_to_order, urgent


def test_average():
    assert average([9, 1, 2, 3], 3) == 2.0
    assert average([]) == 0.0


def test_days_left():
    assert days_left(7, [2, 2]) == 3
    assert days_left(7, [0]) is None


def test_pieces_to_order():
    assert pieces_to_order(5, [2], 7, 6) == 12
    assert pieces_to_order(14, [2], 7, 6) == 0


def test_urgent():
    assert urgent({"a": 9, "b": 1, "c": 3}, {"a": [1], "b": [1], "c": [1]}, 5) == ["b", "c"]
