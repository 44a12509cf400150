from league.results import form, points, table

MATCHES = [("A", "B", 2, 1), ("B", "C", 0, 0), ("C", "A", 3, 1)]


def test_points():
    assert [points(2, 1), points(1, 1), points(0, 1)] == [3, 1, 0]


def test_table():
    assert table(MATCHES) == {"A": [2, 3, 3, 4], "B": [2, 1, 1, 2], "C": [2, 4, 3, 1]}


def test_form():
    assert form(MATCHES, "A") == "LW"
    assert form(MATCHES, "C", 1) == "W"
