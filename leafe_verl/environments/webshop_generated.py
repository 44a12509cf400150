"""The default catalogue of WebShop: small, generated from a seed, with one goal for each product."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leafe_verl.environments.webshop_catalogue import PRICE_STEP, Catalogue, Goal, Product

KINDS_FILE = Path(__file__).parents[1] / "data" / "webshop_kinds.jsonl"
SEED = 0
PRODUCTS_PER_KIND = 25


@dataclass(frozen=True)
class ProductKind:
    """A line of the file of product kinds: what products of one kind have in common, and in what they differ."""

    noun: str
    path: str
    """Product category, from the broadest to the narrowest."""
    attributes: Sequence[str]
    options: Mapping[str, Sequence[str]]
    """Option names with their values; a product has some of the values."""
    uses: Sequence[str]
    prices: Sequence[float]
    """Lowest and highest price, in dollars."""


BRANDS = ("Arvendo", "Bellfern", "Corvale", "Dunmere", "Elsworth", "Fenlow", "Garrick & Moss", "Hollowbrook", "Ilmare")
PRAISE = (
    "Does what it says.",
    "Bought a second one.",
    "Arrived quickly.",
    "Good for the price.",
    "Not quite my shade.",
)


def generated_catalogue(seed: int = SEED) -> Catalogue:
    """Return 25 products of each of 12 kinds, and a goal for each product. A seed gives the same on every machine."""
    randomness = random.Random(f"webshop {seed}")
    with KINDS_FILE.open(encoding="utf-8") as lines:
        kinds = [ProductKind(**json.loads(line)) for line in lines]
    products = [
        _product(randomness, kind, f"B{first:02d}{number:03d}", number + 1)
        for first, kind in enumerate(kinds)
        for number in range(PRODUCTS_PER_KIND)
    ]
    goals = [_goal(randomness, product) for product in products]
    randomness.shuffle(goals)
    # Sizes such as "model 11" and "model 12" are alike to a fuzzy match.
    return Catalogue(products, goals, exact_options=True)


def _product(randomness: random.Random, kind: ProductKind, code: str, number: int) -> Product:
    attributes = randomness.sample(kind.attributes, 3)
    brand, use = randomness.choice(BRANDS), randomness.choice(kind.uses)
    options = {
        name: tuple(sorted(randomness.sample(values, min(3, len(values))))) for name, values in kind.options.items()
    }
    price = round(randomness.uniform(kind.prices[0], kind.prices[1]), 2)
    # Only the page of features shows the third attribute, so that some goals require a look at that page.
    title = f"{brand} {kind.noun.title()}, {attributes[0]}, {attributes[1]}, for {use}, No. {number}"
    return Product(
        asin=f"{code}{randomness.randrange(10**4):04d}",
        title=title,
        query=kind.noun,
        product_category=kind.path,
        attributes=tuple(attributes),
        options=options,
        price=price,
        price_tag=f"${price:.2f}",
        bullet_points=tuple(f"{attribute.capitalize()}." for attribute in attributes) + (f"Made for {use}.",),
        description=f"A {kind.noun} by {brand}, made for {use}.",
        rating=f"{randomness.randint(30, 50) / 10}",
        reviews=tuple(randomness.sample(PRAISE, 2)),
    )


def _goal(randomness: random.Random, product: Product) -> Goal:
    attributes = tuple(randomness.sample(product.attributes, 2))
    options = {name: randomness.choice(values) for name, values in product.options.items()}
    price_upper = (product.price // PRICE_STEP + randomness.randint(1, 3)) * PRICE_STEP
    wanted = " and ".join(f"{name} {value}" for name, value in options.items())
    instruction = (
        f"I am looking for a {product.query} that is described as {attributes[0]} and {attributes[1]}, with {wanted}, "
        f"and price lower than {price_upper:.2f} dollars"
    )
    return Goal(product.asin, instruction, attributes, tuple(options.values()), price_upper)
