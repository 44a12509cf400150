from workdays.dates import add_days, day_of_year, days_between, days_since_start, next_day, weekday
from workdays.months import add_months, days_in_month, days_in_year, is_leap
from workdays.work import count_workdays, due, is_workday, weeks_of


def each(function, inputs):
    return [function(one) for one in inputs]


assert each(lambda year: is_leap(year), (1600, 1700, 1904, 2001, 2002, 2100, 2400)) == [True, False, True, False, False, False, True]
assert each(lambda month: days_in_month(2023, month), range(1, 13)) == [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
assert days_in_month(2000, 2) == 29
assert raises(ValueError, days_in_month(2023, 13))
assert raises(ValueError, days_in_month(2023, 0))
assert each(lambda year: days_in_year(year), (1900, 2000, 2023)) == [365, 366, 365]
assert add_months(2024, 12, 1) == (2025, 1)
assert add_months(2024, 3, 24) == (2026, 3)
assert add_months(2024, 5, -17) == (2022, 12)
assert day_of_year((2023, 1, 1)) == 1
assert day_of_year((2024, 12, 31)) == 366
assert days_since_start((1, 1, 1)) == 0
assert days_since_start((2024, 1, 1)) == 738885
assert each(lambda day: weekday((2024, 1, day)), (1, 6, 7)) == ["Monday", "Saturday", "Sunday"]
assert weekday((1900, 3, 1)) == "Thursday"
assert next_day((2024, 2, 28)) == (2024, 2, 29)
assert next_day((2024, 11, 30)) == (2024, 12, 1)
assert next_day((2024, 12, 30)) == (2024, 12, 31)
assert add_days((2024, 1, 1), 0) == (2024, 1, 1)
assert add_days((2024, 1, 31), 29) == (2024, 2, 29)
assert add_days((2023, 1, 1), 365) == (2024, 1, 1)
assert add_days((2023, 1, 1), 1095) == (2025, 12, 31)
assert days_between((2024, 3, 1), (2024, 2, 28)) == -2
assert days_between((1999, 12, 31), (2001, 1, 1)) == 367
assert is_workday((2024, 1, 5)) == True
assert [is_workday((2024, 1, 6)), is_workday((2024, 1, 7))] == [False, False]
assert is_workday((2024, 1, 8), frozenset([(2024, 1, 8)])) == False
assert count_workdays((2024, 1, 6), (2024, 1, 7)) == 0
assert count_workdays((2024, 1, 1), (2024, 1, 1)) == 1
assert count_workdays((2024, 1, 1), (2024, 1, 31), frozenset([(2024, 1, 1)])) == 22
assert due((2024, 1, 5), 0) == (2024, 1, 5)
assert due((2024, 1, 5), 5) == (2024, 1, 12)
assert due((2024, 1, 5), 1, frozenset([(2024, 1, 8)])) == (2024, 1, 9)
assert weeks_of((2024, 1, 2), (2024, 1, 7)) == []
assert weeks_of((2023, 12, 31), (2024, 1, 15)) == [(2024, 1, 1), (2024, 1, 8), (2024, 1, 15)]
