"""Reports on entries, which are pairs of a day, as "2024-03-31", and cents."""

from ledger.money import format_amount

Entries = list[tuple[str, int]]


def monthly_totals(entries: Entries) -> dict[str, int]:
    """Return month -> sum, in the order of the months."""
    totals: dict[str, int] = {}
    for day, cents in sorted(entries):
        month = day[:7]
        totals[month] = totals.get(month, 0) + cents
    return totals


def running_balances(entries: Entries, start: int = 0) -> list[int]:
    """Return the balance after each entry."""
    balances = []
    balance = start
    for _, cents in entries:
        balance += cents
        balances.append(balance)
    return balances


def lowest_balance(entries: Entries, start: int = 0) -> int:
    """Return the lowest balance that there ever was, the start included."""
    return min([start, *running_balances(entries, start)])


def largest(entries: Entries, count: int) -> Entries:
    """Return the entries that moved most money, the largest first; of equal ones, the earlier day first."""
    return sorted(entries, key=lambda entry: (-abs(entry[1]), entry[0]))[:count]


def statement(entries: Entries) -> str:
    """Return a line for each entry, with a total below."""
    lines = [f"{day} {format_amount(cents):>12}" for day, cents in entries]
    total = sum(cents for _, cents in entries)
    return "\n".join([*lines, f"{'total':<10} {format_amount(total):>12}"])
