from workdays.months import add_months, days_in_month, days_in_year, is_leap


def test_is_leap():
    assert is_leap(2024) and is_leap(2000)
    assert not is_leap(1900) and not is_leap(2023)


def test_days_in_month():
    assert days_in_month(2024, 2) == 29
    assert days_in_month(2023, 12) == 31


def test_days_in_year():
    assert days_in_year(2024) == 366


def test_add_months():
    assert add_months(2023, 11, 3) == (2024, 2)
    assert add_months(2024, 1, -1) == (2023, 12)
