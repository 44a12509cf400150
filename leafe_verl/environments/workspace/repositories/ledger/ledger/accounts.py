"""Accounts, which know their entries."""

from ledger.money import parse_amount


class Account:
    def __init__(self, name: str, limit: int = 0) -> None:
        """`limit`: how many cents the balance may go below zero."""
        self.name = name
        self.limit = limit
        self.entries: list[tuple[str, int]] = []

    @property
    def balance(self) -> int:
        return sum(cents for _, cents in self.entries)

    def deposit(self, day: str, amount: str) -> None:
        cents = parse_amount(amount)
        if cents <= 0:
            raise ValueError("a deposit is positive")
        self.entries.append((day, cents))

    def withdraw(self, day: str, amount: str) -> bool:
        """Take money if the limit allows it. Returns whether it did."""
        cents = parse_amount(amount)
        if self.balance - cents < -self.limit:
            return False
        self.entries.append((day, -cents))
        return True


def transfer(day: str, source: Account, target: Account, amount: str) -> bool:
    """Move money from one account to another. Returns whether there was enough."""
    if not source.withdraw(day, amount):
        return False
    target.deposit(day, amount)
    return True
