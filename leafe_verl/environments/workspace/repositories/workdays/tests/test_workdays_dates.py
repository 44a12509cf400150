from workdays.dates import add_days, day_of_year, days_between, next_day, weekday


def test_day_of_year():
    assert day_of_year((2024, 3, 1)) == 61


def test_weekday():
    assert weekday((2024, 2, 29)) == "Thursday"


def test_next_day():
    assert next_day((2023, 2, 28)) == (2023, 3, 1)
    assert next_day((2023, 12, 31)) == (2024, 1, 1)


def test_add_days():
    assert add_days((2023, 12, 30), 62) == (2024, 3, 1)


def test_days_between():
    assert days_between((2023, 12, 31), (2024, 3, 1)) == 61
