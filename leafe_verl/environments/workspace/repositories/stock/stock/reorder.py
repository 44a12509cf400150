"""What to order again."""


def average(sales: list[int], days: int = 7) -> float:
    """Return the mean of the last days' sales; 0 without any."""
    latest = sales[-days:]
    return sum(latest) / len(latest) if latest else 0.0


def days_left(count: int, sales: list[int]) -> int | None:
    """Return for how many whole days a stock lasts; None if nothing is sold."""
    a_day = average(sales)
    return int(count / a_day) if a_day > 0 else None


def pieces_to_order(count: int, sales: list[int], lead: int, pack: int) -> int:
    """Return how many pieces to order, in whole packs, so that the stock lasts `lead` days."""
    needed = average(sales) * lead - count
    if needed <= 0:
        return 0
    packs = -(-needed // pack)
    return int(packs) * pack


def urgent(counts: dict[str, int], sales: dict[str, list[int]], lead: int) -> list[str]:
    """Return the articles that do not last `lead` days, the most urgent first."""
    lasting = {name: days_left(count, sales.get(name, [])) for name, count in counts.items()}
    short = [(days, name) for name, days in lasting.items() if days is not None and days < lead]
    return [name for _, name in sorted(short)]
