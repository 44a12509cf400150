"""Amounts of money, which are whole numbers of cents."""


def parse_amount(text: str) -> int:
    """Return the cents of a text such as "12.5", "-3" or "1,200.00"."""
    text = text.strip().replace(",", "")
    negative = text.startswith("-")
    whole, _, fraction = text.lstrip("+-").partition(".")
    if len(fraction) > 2 or not (whole or fraction):
        raise ValueError(f"{text!r} is no amount")
    cents = int(whole or "0") * 100 + int(fraction.ljust(2, "0"))
    return -cents if negative else cents


def format_amount(cents: int) -> str:
    """Return a text such as "1,200.05"."""
    sign = "-" if cents < 0 else ""
    whole, rest = divmod(abs(cents), 100)
    return f"{sign}{whole:,}.{rest:02d}"


def split_evenly(cents: int, people: int) -> list[int]:
    """Return shares that differ by a cent at most, the larger ones first."""
    if people < 1:
        raise ValueError("nobody to share with")
    share, left = divmod(cents, people)
    return [share + 1 if number < left else share for number in range(people)]
