"""WebShop's products and goals: search, and the reward of a purchase. `webshop_files.py` reads the original's files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

MAX_RESULTS = 50
MAX_QUERY_WORDS = 50
MATCH = 85
"""Two texts count as the same attribute or option if rapidfuzz's token_set_ratio, 0 to 100, is above this."""
EXACT_OPTIONS = ("size",)
"""Options whose values must be equal, not similar."""
PRICE_STEP = 10.0
"""Dollars between two possible price limits of a goal."""


@dataclass(frozen=True)
class Product:
    asin: str
    title: str
    query: str
    """The search by which the product was found when the data were collected; lower case."""
    product_category: str
    """Categories from the broadest to the narrowest, separated by `›`."""
    attributes: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]]
    """Option names with their values, in lower case."""
    price: float
    """Price in dollars."""
    price_tag: str
    """The price as the page shows it."""
    bullet_points: tuple[str, ...]
    """The lines of the page of features."""
    description: str
    rating: str = "N.A."
    reviews: tuple[str, ...] = ()

    @cached_property
    def text(self) -> str:
        """Title, features and description in lower case. Attributes and options may be found here, too."""
        return "\n".join((self.title, *self.bullet_points, self.description)).lower()


@dataclass(frozen=True)
class Goal:
    asin: str
    """A product that fulfils the goal."""
    instruction: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]
    """Values of the wanted options, without their names."""
    price_upper: float
    """Highest price that fulfils the goal, in dollars."""


@dataclass(frozen=True)
class Score:
    """How well a purchase fulfils a goal."""

    type_factor: float
    """Whether the product is of the right kind: 1, 0.5, 0.1 or 0."""
    attributes: int
    """Attributes of the goal that the product has."""
    options: int
    """Options of the goal that were chosen."""
    in_budget: bool
    total: int
    """Number of the goal's attributes and options, plus 1 for the price."""

    @property
    def reward(self) -> float:
        """The reward, 0 to 1."""
        return self.type_factor * (self.attributes + self.options + self.in_budget) / self.total


@dataclass
class Catalogue:
    products: Sequence[Product]
    goals: Sequence[Goal]
    exact_options: bool = False
    """Whether an option counts only if it is the goal's, and not by the original's fuzzy match."""
    _by_asin: dict[str, Product] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._by_asin = {product.asin: product for product in self.products}

    def __getitem__(self, asin: str) -> Product:
        return self._by_asin[asin]

    def search(self, query: str) -> tuple[str, ...]:
        """Return the asins of up to MAX_RESULTS products with a word of `query`, best first by BM25.

        Products with equal scores keep the catalogue's order. The original searches with Lucene, whose order differs
        in details.
        """
        scores = self._index.get_scores(_words(query)[:MAX_QUERY_WORDS])
        found = sorted((-score, number) for number, score in enumerate(scores) if score)
        return tuple(self.products[number].asin for _, number in found[:MAX_RESULTS])

    @cached_property
    def _index(self) -> Any:
        from rank_bm25 import BM25Okapi

        return BM25Okapi(
            [_words(f"{each.text} {' '.join(map(' '.join, each.options.values()))}") for each in self.products]
        )


# --- Reward ---


def score_purchase(
    product: Product, chosen: Mapping[str, str], goal: Goal, wanted: Product, exact_options: bool = False
) -> Score:
    """Return how well `product`, bought with the options `chosen`, fulfils `goal`, whose own product is `wanted`.

    The rules are the original's (`engine/goal.py` of princeton-nlp/WebShop) with three exceptions. The words of a title
    take the place of the nouns that spaCy finds in it. Colours are not mapped to basic ones, because the fuzzy match
    finds `blue` in `navy blue`. No more options count than the goal has, so that no reward exceeds 1.
    """

    def fits(option: tuple[str, str]) -> bool:
        return option[1] in goal.options if exact_options else _fits(product, *option, goal)

    return Score(
        type_factor=_type_factor(product, wanted),
        attributes=sum(_has_attribute(product, attribute) for attribute in goal.attributes),
        options=min(sum(map(fits, chosen.items())), len(goal.options)),
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
