"""Prices of orders, in cents."""

DISCOUNTS = ((100, 20), (50, 10), (10, 5))
"""Pieces from which on a discount holds, and its percent, from the largest."""


def discount(pieces: int) -> int:
    """Return the percent that are taken off."""
    for least, percent in DISCOUNTS:
        if pieces >= least:
            return percent
    return 0


def line_price(price: int, pieces: int) -> int:
    """Return the price of some pieces of an article, rounded down to a cent."""
    return price * pieces * (100 - discount(pieces)) // 100


def shipping(total: int, express: bool = False) -> int:
    """Return what shipping costs: nothing from 50.00 on, but express always costs 9.00 more."""
    cost = 0 if total >= 5000 else 490
    return cost + 900 if express else cost


def order_price(prices: dict[str, int], order: dict[str, int], express: bool = False) -> int:
    """Return the price of an order with shipping. Raises KeyError for an article without a price."""
    total = sum(line_price(prices[name], pieces) for name, pieces in order.items())
    return total + shipping(total, express)


def cheapest(offers: dict[str, dict[str, int]], order: dict[str, int]) -> str | None:
    """Return the shop with the lowest price, of those that have all; the first in the alphabet if several do."""
    complete = [shop for shop, prices in offers.items() if all(name in prices for name in order)]
    return min(complete, key=lambda shop: (order_price(offers[shop], order), shop), default=None)
