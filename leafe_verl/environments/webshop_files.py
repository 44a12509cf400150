"""Reading the catalogue of the original WebShop from its JSON files."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leafe_verl.environments.options import SETTING
from leafe_verl.environments.webshop_catalogue import PRICE_STEP, Catalogue, Goal, Product

NO_LIMIT = 1_000_000.0
"""Price limit, in dollars, of a goal without one."""
DEFAULT_PRICE = 100.0
"""Price, in dollars, of a product without one."""
SHUFFLE_SEED = 233
"""The seed by which the original shuffles its goals. The test goals of the literature get the numbers 0 to 499."""


def read_catalogue(product_file: str, goal_file: str, attribute_file: str | None = None) -> Catalogue:
    """Read `items_shuffle.json` or `items_shuffle_1000.json`, `items_human_ins.json` and `items_ins_v2.json`.

    The original draws a price from a price range and a goal's price limit without a seed; here the product's asin and
    the goal's number are the seeds. Raises ValueError that names the setting of a file that cannot be read.
    """
    try:
        return _read(product_file, goal_file, attribute_file)
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"{SETTING}.product_file is {product_file!r}, goal_file {goal_file!r} and attribute_file "
            f"{attribute_file!r}: they do not hold what WebShop's files hold ({type(error).__name__}: {error}); "
            "expected items_shuffle.json or items_shuffle_1000.json, items_human_ins.json, and items_ins_v2.json"
        ) from error


def _read(product_file: str, goal_file: str, attribute_file: str | None) -> Catalogue:
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
        return json.loads(Path(path).expanduser().read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{SETTING}.{option} is {path!r}: {error}; expected WebShop's JSON") from None


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
