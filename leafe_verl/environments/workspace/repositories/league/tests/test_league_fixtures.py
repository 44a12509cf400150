from league.fixtures import home_matches, longest_run_away, rounds, second_leg

FIRST = rounds(["A", "B", "C", "D"])


def test_rounds():
    assert FIRST == [[("A", "D"), ("B", "C")], [("A", "C"), ("D", "B")], [("A", "B"), ("C", "D")]]
    assert rounds(["A", "B", "C"]) == [[("B", "C")], [("A", "C")], [("A", "B")]]


def test_second_leg():
    assert second_leg([[("A", "B")]]) == [[("B", "A")]]


def test_home_matches():
    assert home_matches(FIRST, "A") == 3


def test_longest_run_away():
    assert longest_run_away(FIRST, "B") == 2
