from formulas.values import evaluate, free_names, table


def test_evaluate():
    assert evaluate("2 * (3 + 4) - 6 / 4") == 12.5
    assert evaluate("-x ^ 2", {"x": 3}) == -9.0


def test_free_names():
    assert free_names("b * (a - b)") == ["a", "b"]


def test_table():
    assert table("x + 1", "x", 0, 2) == [1.0, 2.0, 3.0]
