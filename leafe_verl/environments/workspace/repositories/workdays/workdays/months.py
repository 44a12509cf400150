"""Years and months."""

LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def is_leap(year: int) -> bool:
    """Return whether February has 29 days."""
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def days_in_month(year: int, month: int) -> int:
    if not 1 <= month <= 12:
        raise ValueError(f"no month {month}")
    return LENGTHS[month - 1] + (month == 2 and is_leap(year))


def days_in_year(year: int) -> int:
    return 366 if is_leap(year) else 365


def add_months(year: int, month: int, number: int) -> tuple[int, int]:
    """Return the year and month that comes `number` months later, or earlier if it is negative."""
    months = year * 12 + month - 1 + number
    return months // 12, months % 12 + 1
