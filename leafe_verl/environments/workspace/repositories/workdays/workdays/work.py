"""Days of work: Monday to Friday, without holidays."""

from workdays.dates import Date, days_between, next_day, weekday

Holidays = frozenset[Date]


def is_workday(date: Date, holidays: Holidays = frozenset()) -> bool:
    return weekday(date) not in ("Saturday", "Sunday") and date not in holidays


def count_workdays(first: Date, last: Date, holidays: Holidays = frozenset()) -> int:
    """Return the number of days of work from the first date to the last, both included."""
    count, date = 0, first
    for _ in range(days_between(first, last) + 1):
        if is_workday(date, holidays):
            count += 1
        date = next_day(date)
    return count


def due(date: Date, workdays: int, holidays: Holidays = frozenset()) -> Date:
    """Return the date on which some days of work are over. The date itself does not count."""
    while workdays > 0:
        date = next_day(date)
        if is_workday(date, holidays):
            workdays -= 1
    return date


def weeks_of(first: Date, last: Date) -> list[Date]:
    """Return the Mondays between two dates, both included."""
    found, date = [], first
    while days_between(date, last) >= 0:
        if weekday(date) == "Monday":
            found.append(date)
        date = next_day(date)
    return found
