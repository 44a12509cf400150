"""WebShop's products and goals: the original's files, search, and the reward of a purchase."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

MAX_RESULTS = 50
MAX_QUERY_WORDS = 50
MATCH = 85
"""Of rapidfuzz's token_set_ratio, 0 to 100; above it two texts are the same attribute or option."""
EXACT_OPTIONS = ("size",)
PRICE_STEP = 10.0
"""Dollars between the price limits of goals."""
NO_LIMIT = 1_000_000.0
DEFAULT_PRICE = 100.0
SHUFFLE_SEED = 233
"""The original's for its goals, so that a number names the same goal: 0 to 499 are the test goals of the literature."""


@dataclass(frozen=True)
class Product:
    asin: str
    title: str
    query: str
    """What the product was found by when the data were collected; small letters."""
    product_category: str
    """From the broadest, separated by `›`."""
    attributes: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]]
    """Name to values; small letters."""
    price: float
    """Dollars."""
    price_tag: str
    bullet_points: tuple[str, ...]
    """The page of features."""
    description: str
    rating: str = "N.A."
    reviews: tuple[str, ...] = ()

    @cached_property
    def text(self) -> str:
        """Where an attribute or option may be found, too; small letters."""
        return "\n".join((self.title, *self.bullet_points, self.description)).lower()


@dataclass(frozen=True)
class Goal:
    asin: str
    """Of a product that fulfils it."""
    instruction: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]
    """Values alone."""
    price_upper: float
    """Dollars, included."""


@dataclass(frozen=True)
class Score:
    """How well a purchase fulfils a goal."""

    type_factor: float
    """1, 0.5, 0.1 or 0: whether it is the right kind of product at all."""
    attributes: int
    options: int
    """Matched, of the goal's."""
    in_budget: bool
    total: int
    """Attributes and options of the goal, and the price."""

    @property
    def reward(self) -> float:
        """0 to 1."""
        return self.type_factor * (self.attributes + self.options + self.in_budget) / self.total


@dataclass
class Catalogue:
    products: Sequence[Product]
    goals: Sequence[Goal]
    _by_asin: dict[str, Product] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._by_asin = {product.asin: product for product in self.products}

    def __getitem__(self, asin: str) -> Product:
        return self._by_asin[asin]

    def search(self, query: str) -> tuple[str, ...]:
        """Return the asins of the best products by BM25, best first, at most MAX_RESULTS, each with a word of `query`.

        Of equal ones the earlier comes first. The original searches with Lucene, whose order differs in detail.
        """
        scores = self._index.get_scores(_words(query)[:MAX_QUERY_WORDS])
        found = sorted((-score, number) for number, score in enumerate(scores) if score)
        return tuple(self.products[number].asin for _, number in found[:MAX_RESULTS])

    @cached_property
    def _index(self) -> Any:
        from rank_bm25 import BM25Okapi  # type: ignore[import-untyped]

        return BM25Okapi(
            [_words(f"{each.text} {' '.join(map(' '.join, each.options.values()))}") for each in self.products]
        )


# --- Reward ---


def score_purchase(product: Product, chosen: Mapping[str, str], goal: Goal, wanted: Product) -> Score:
    """Return how well `product`, bought with the options `chosen`, fulfils `goal`, whose own product is `wanted`.

    The original's rules (`engine/goal.py` of princeton-nlp/WebShop), but for three: a title's words stand for the nouns
    that spaCy finds in it; colours are not mapped to basic ones, since the fuzzy match finds `blue` in `navy blue`;
    and no more options count than the goal has, so that no reward exceeds 1.
    """
    return Score(
        type_factor=_type_factor(product, wanted),
        attributes=sum(_has_attribute(product, attribute) for attribute in goal.attributes),
        options=min(sum(_fits(product, *option, goal) for option in chosen.items()), len(goal.options)),
        in_budget=product.price <= goal.price_upper,
        total=len(goal.attributes) + len(goal.options) + 1,
    )


def _type_factor(product: Product, wanted: Product) -> float:
    nouns, shown = set(_nouns(wanted.title)), set(_nouns(product.title))
    title_score = len(nouns & shown) / len(nouns) if nouns else 0.2
    if title_score < 0.1:
        return 0.1 if title_score else 0.0
    same_category = len(_categories(product) & _categories(wanted)) >= 2
    return 1.0 if product.query == wanted.query or same_category or title_score > 0.2 else 0.5


def _categories(product: Product) -> set[str]:
    return {part.strip() for part in product.product_category.split("›")}


def _has_attribute(product: Product, attribute: str) -> bool:
    return any(_similar(own, attribute) for own in product.attributes) or attribute.lower() in product.text


def _fits(product: Product, name: str, value: str, goal: Goal) -> bool:
    if name.lower() in EXACT_OPTIONS:
        return value in goal.options or value in product.text
    return any(_similar(wanted, value) for wanted in goal.options) or value in product.text


def _similar(one: str, other: str) -> bool:
    from rapidfuzz import fuzz, utils

    return round(fuzz.token_set_ratio(one, other, processor=utils.default_process)) > MATCH


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _nouns(title: str) -> Iterator[str]:
    return (word for word in _words(title) if len(word) > 2 and word.isalpha() and word not in _NO_NOUNS)


_NO_NOUNS = frozenset({"and", "the", "for", "with", "from", "that", "this", "your", "our", "are", "all", "non", "not"})


# --- The original's files ---


def read_catalogue(product_file: str, goal_file: str, attribute_file: str | None = None) -> Catalogue:
    """Read `items_shuffle.json` or `items_shuffle_1000.json`, `items_human_ins.json` and `items_ins_v2.json`.

    What the original draws without a seed, a price within a range and a goal's price limit, is drawn by the product's
    asin and the goal's number here. Raises ValueError naming the setting of a file that cannot be read.
    """
    attributes = _json("attribute_file", attribute_file) if attribute_file else {}
    products: dict[str, Product] = {}
    for row in _json("product_file", product_file):
        asin = str(row["asin"])
        if asin != "nan" and len(asin) <= 10 and asin not in products:
            products[asin] = _read_product(row, attributes.get(asin, {}).get("attributes", ()))
    instructions = _json("goal_file", goal_file)
    goals = [
        _read_goal(products[asin], row, number)
        for number, (asin, row) in enumerate(
            (asin, row) for asin in products for row in instructions.get(asin, ()) if row["instruction_attributes"]
        )
    ]
    random.Random(SHUFFLE_SEED).shuffle(goals)
    return Catalogue(list(products.values()), goals)


def _json(option: str, path: str) -> Any:
    try:
        return json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"leafe.environment.options.{option} is {path!r}: {error}; expected WebShop's JSON") from None


def _read_product(row: Mapping[str, Any], attributes: Sequence[str]) -> Product:
    prices = [float(re.sub(r"[^\d.]", "", part)) for part in (row.get("pricing") or "").split("$")[1:3]]
    price = random.Random(row["asin"]).uniform(*prices) if len(prices) == 2 else (prices or [DEFAULT_PRICE])[0]
    points = row.get("small_description") or ()
    return Product(
        asin=row["asin"],
        title=row["name"],
        query=row["query"].lower().strip(),
        product_category=row["product_category"],
        attributes=tuple(attributes),
        options={
            name.lower(): tuple(each["value"].strip().replace("/", " | ").lower() for each in values)
            for name, values in (row.get("customization_options") or {}).items()
            if values is not None
        },
        price=price,
        price_tag=" to ".join(f"${each}" for each in prices or [DEFAULT_PRICE]),
        bullet_points=(points,) if isinstance(points, str) else tuple(points),
        description=row.get("full_description") or "",
    )


def _read_goal(product: Product, row: Mapping[str, Any], number: int) -> Goal:
    options = row["instruction_options"]
    instruction, price_upper = row["instruction"].strip("."), NO_LIMIT
    limits = [PRICE_STEP * step for step in range(1, 100) if PRICE_STEP * step > product.price][:4]
    if len(limits) >= 2:
        price_upper = max(random.Random(number).sample(limits, 2))
        instruction += f", and price lower than {price_upper:.2f} dollars"
    values = options.values() if isinstance(options, Mapping) else options
    return Goal(product.asin, instruction, tuple(row["instruction_attributes"]), tuple(values), price_upper)
