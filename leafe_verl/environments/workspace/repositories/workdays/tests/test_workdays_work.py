from workdays.work import count_workdays, due, is_workday, weeks_of


def test_is_workday():
    assert is_workday((2024, 3, 1))
    assert not is_workday((2024, 3, 2))
    assert not is_workday((2024, 3, 1), frozenset([(2024, 3, 1)]))


def test_count_workdays():
    assert count_workdays((2024, 3, 1), (2024, 3, 8)) == 6


def test_due():
    assert due((2024, 3, 1), 1) == (2024, 3, 4)


def test_weeks_of():
    assert weeks_of((2024, 3, 4), (2024, 3, 11)) == [(2024, 3, 4), (2024, 3, 11)]
