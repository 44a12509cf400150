from league.ranking import can_still_win, leaders, ranked, ranks

MATCHES = [("A", "B", 2, 1), ("B", "C", 0, 0), ("C", "A", 3, 1)]


def test_ranked():
    assert ranked(MATCHES) == ["C", "A", "B"]


def test_ranks():
    assert ranks({"x": 5, "y": 9, "z": 5, "w": 1}) == {"x": 2, "y": 1, "z": 2, "w": 4}


def test_leaders():
    assert leaders(MATCHES) == ["C"]


def test_can_still_win():
    assert can_still_win(MATCHES, "B", 3)
    assert not can_still_win(MATCHES, "B", 2)
