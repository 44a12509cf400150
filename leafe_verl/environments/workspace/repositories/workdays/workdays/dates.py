"""Dates, which are (year, month, day)."""

from workdays.months import days_in_month, days_in_year

Date = tuple[int, int, int]
NAMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def day_of_year(date: Date) -> int:
    """Return the number of the day in its year, from 1."""
    year, month, day = date
    return sum(days_in_month(year, each) for each in range(1, month)) + day


def days_since_start(date: Date) -> int:
    """Return the number of days since the first of January of the year 1, a Monday."""
    before = date[0] - 1
    return before * 365 + before // 4 - before // 100 + before // 400 + day_of_year(date) - 1


def weekday(date: Date) -> str:
    return NAMES[days_since_start(date) % 7]


def next_day(date: Date) -> Date:
    year, month, day = date
    if day < days_in_month(year, month):
        return year, month, day + 1
    return (year, month + 1, 1) if month < 12 else (year + 1, 1, 1)


def add_days(date: Date, number: int) -> Date:
    """Return the date some days later."""
    year, left = date[0], day_of_year(date) + number
    while left > days_in_year(year):
        left -= days_in_year(year)
        year += 1
    month = 1
    while left > days_in_month(year, month):
        left -= days_in_month(year, month)
        month += 1
    return year, month, left


def days_between(first: Date, second: Date) -> int:
    """Return how many days the second date is after the first; negative if it is before."""
    return days_since_start(second) - days_since_start(first)
