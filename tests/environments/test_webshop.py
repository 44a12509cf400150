"""WebShop: pages, clicks, search, reward, and the original's files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

for package in ("rank_bm25", "rapidfuzz"):
    pytest.importorskip(package, reason="needs pip install leafe-verl[webshop]")

from leafe_verl.core.environment import Step
from leafe_verl.environments import webshop
from leafe_verl.environments.rows import build_verl_row
from leafe_verl.environments.webshop import SEPARATOR, WebShop, parse_command
from leafe_verl.environments.webshop_catalogue import Catalogue, Goal, Product, score_purchase
from leafe_verl.environments.webshop_generated import generated_catalogue
from leafe_verl.task_files import read_tasks

DATA = Path(__file__).parents[2] / "leafe_verl" / "data"
SHOP = WebShop()
GOAL = SHOP.catalogue.goals[0]
PRODUCT = SHOP.catalogue[GOAL.asin]


def started(number: int = 0, **options: Any) -> WebShop:
    environment = WebShop(**options)
    environment.reset(WebShop.task({"goal": number}), 0)
    return environment


def play(*actions: str, **options: Any) -> Step:
    environment = started(**options)
    return [environment.step(action) for action in actions][-1]


def page(*actions: str, **options: Any) -> list[str]:
    """What the last action shows, without the instruction."""
    return (
        play(*actions, **options)
        .observation.replace(f"Instruction: [SEP] {GOAL.instruction} [SEP] ", "")
        .split(SEPARATOR)
    )


ITEM = (f"search[{PRODUCT.title}]", f"click[{PRODUCT.asin}]")


# --- Pages ---


def test_the_first_page_states_the_instruction() -> None:
    observation, _ = WebShop().reset(WebShop.task({"goal": 0}), 0)
    assert observation == f"WebShop [SEP] Instruction: [SEP] {GOAL.instruction} [SEP] Search"


def test_results_come_ten_a_page_and_fifty_at_most() -> None:
    search = "search[rain jacket or coffee grinder for hiking]"
    first = page(search)
    assert first[:3] == ["Back to Search", "Page 1 (Total results: 50)", "Next >"]
    assert len(first) == 3 + 3 * 10
    asin, title, price = first[3:6]
    assert SHOP.catalogue[asin].title == title and "Rain Jacket" in title and price.startswith("$")
    last = page(search, *["click[Next >]"] * 4)
    assert last[:3] == ["Back to Search", "Page 5 (Total results: 50)", "< Prev"]
    assert play(search, *["click[next >]"] * 5).info["error"]
    assert page(search, "click[next >]", "click[< prev]") == first


def test_a_search_without_results_shows_an_empty_page() -> None:
    assert page("search[zzz]") == ["Back to Search", "Page 1 (Total results: 0)"]


def test_an_item_page_shows_options_and_buttons() -> None:
    assert page(*ITEM) == [
        "Back to Search", "< Prev",
        "color", "burgundy", "mustard", "navy blue", "capacity", "120 gram", "30 gram", "60 gram",
        PRODUCT.title, f"Price: {PRODUCT.price_tag}", f"Rating: {PRODUCT.rating}",
        "Description", "Features", "Reviews", "Buy Now",
    ]  # fmt: skip
    assert "Attributes" in page(*ITEM, show_attributes=True)


def test_the_pages_of_an_item() -> None:
    item = page(*ITEM)
    assert page(*ITEM, "click[Description]") == ["Back to Search", "< Prev", PRODUCT.description]
    assert page(*ITEM, "click[features]")[2:] == list(PRODUCT.bullet_points)
    assert page(*ITEM, "click[reviews]")[2:] == list(PRODUCT.reviews)
    assert page(*ITEM, "click[attributes]", show_attributes=True)[2:] == list(PRODUCT.attributes)
    assert page(*ITEM, "click[features]", "click[< Prev]") == item
    assert page(*ITEM, "click[< Prev]") == page(ITEM[0])
    assert page(*ITEM, "click[features]", "click[Back to Search]")[-1] == "Search"


def test_a_clicked_option_is_told_and_the_last_of_its_name_counts() -> None:
    assert page(*ITEM, "click[mustard]")[0] == "You have clicked mustard."
    environment = started()
    for action in (*ITEM, "click[mustard]", "click[60 gram]", "click[features]", "click[< prev]", "click[burgundy]"):
        environment.step(action)
    assert environment.snapshot().chosen == (("color", "burgundy"), ("capacity", "60 gram"))


@pytest.mark.parametrize(
    "value", ["9.5 [us]", "[9.5] us", "[9.5 [us]]", "9.5 [us", "9] us", "9.5  us\t(wide)", "`9`", "é ß"]
)
def test_an_option_of_any_name_can_be_clicked_and_counts(value: str) -> None:
    environment = started()
    product = replace(PRODUCT, options={"color": ("mustard",), "size": ("9", value)})
    environment.catalogue = Catalogue([product], [replace(GOAL, options=(value,))])
    environment.reset(WebShop.task({"goal": 0}), 0)
    for action in (f"search[{PRODUCT.title}]", f"click[{PRODUCT.asin}]"):
        environment.step(action)
    step = environment.step(f"Thought: this size.\nAction: click[{value}]")
    assert not step.info["error"] and environment.snapshot().chosen == (("size", value),)
    assert "Options matched: 1 of 1" in environment.step("Action: click[Buy Now]").observation


@pytest.mark.parametrize(
    "actions",
    [
        ("",),
        ("I would buy it.",),
        ("click[buy now]",),
        ("click[back to search]",),
        ("click[next >]",),
        ("search[rain jacket]", "click[< prev]"),
        (*ITEM, "click[attributes]"),
        (*ITEM, "click[features]", "click[buy now]"),
        (*ITEM, "click[features]", "click[mustard]"),
        (*ITEM, "click[mauve]"),
    ],
)
def test_what_is_not_on_the_page_changes_nothing(actions: tuple[str, ...]) -> None:
    before = started()
    for action in actions[:-1]:
        before.step(action)
    state = before.snapshot()
    step = before.step(actions[-1])
    assert (step.info["success"], step.info["error"], step.reward) == (False, True, 0)
    assert step.observation.startswith("Nothing happened: ")
    assert before.snapshot() == state


@pytest.mark.parametrize(
    ("answer", "action"),
    [
        ("search[red tea]", ("search", "red tea")),
        ("Thought: click[buy now] is next.\nAction: search[Tea]", ("search", "tea")),
        ("Action: click[B01]\nObservation: ...\nAction: click[Buy Now]", ("click", "b01")),
        ("I would search[a], then click[b].", ("click", "b")),
        ("Action: click[9.5 [us]]", ("click", "9.5 [us]")),
        ("click[a [b [c] d] e] or click[f]", ("click", "f")),
        ("Action: click[a [b [c] d] e], not click[f]", ("click", "a [b [c] d] e")),
        ("Action: Click [Buy Now]", ("click", "buy now")),
        ("Action: search[tea [green]]", ("search", "tea [green]")),
        ("Action: buy", (None, "")),
        ("click[]", (None, "")),
        ("", (None, "")),
    ],
)
def test_the_action_in_an_answer(answer: str, action: tuple[str | None, str]) -> None:
    assert parse_command(answer) == action


# --- Reward ---


def test_the_goals_product_earns_the_full_reward() -> None:
    for task in read_tasks(str(DATA / "embedded_webshop_heldout.jsonl"), "webshop")[:30]:
        environment = WebShop()
        environment.reset(task, 0)
        goal = environment.catalogue.goals[task.data["goal"]]
        for action in (
            f"search[{goal.instruction}]",
            f"click[{goal.asin}]",
            *(f"click[{value}]" for value in goal.options),
        ):
            assert not environment.step(action).info["error"]
        step = environment.step("click[Buy Now]")
        assert (step.reward, step.terminated) == (1.0, True)
        assert step.info == {"success": True, "error": False, "action": "click[Buy Now]"}


def test_another_option_of_the_generated_shop_is_never_the_wanted_one() -> None:
    shop = SHOP.catalogue
    for goal in shop.goals:
        product = shop[goal.asin]
        chosen = dict(zip(product.options, goal.options, strict=True))
        assert score_purchase(product, chosen, goal, product, shop.exact_options).reward == 1
        for name, values in product.options.items():
            for value in set(values) - {chosen[name]}:
                other = score_purchase(product, {**chosen, name: value}, goal, product, shop.exact_options)
                assert other.options == len(goal.options) - 1 and other.reward < 1


def test_a_purchase_without_its_options_is_scored_in_part_and_told() -> None:
    step = play(*ITEM, "click[burgundy]", "click[Buy Now]")
    assert step.reward == pytest.approx(4 / 5) and step.terminated and not step.info["success"]
    assert step.observation.split(SEPARATOR)[1:] == [
        "Your score (min 0.0, max 1.0): 0.80",
        "Kind of product: 1 of 1",
        "Attributes matched: 2 of 2",
        "Options matched: 1 of 2",
        "Price within the limit: yes",
    ]


WANTED = Product(
    asin="A", title="Acme Rain Jacket", query="rain jacket", product_category="Clothing › Outerwear › Jackets",
    attributes=("waterproof",), options={"color": ("navy blue",), "size": ("large",)}, price=20.0, price_tag="$20.00",
    bullet_points=("Machine wash.",), description="Comes in grey.",
)  # fmt: skip
WISH = Goal("A", "", ("waterproof", "machine wash"), ("blue", "large"), 30.0)


@pytest.mark.parametrize(
    ("changes", "chosen", "reward"),
    [
        ({}, {"color": "navy blue", "size": "large"}, 1.0),
        ({}, {"color": "navy blue", "size": "x-large"}, 4 / 5),
        ({}, {"color": "grey"}, 4 / 5),
        ({}, {"color": "navy blue", "size": "large", "style": "acme"}, 1.0),
        ({"price": 31.0}, {"color": "blue", "size": "large"}, 4 / 5),
        ({"attributes": ("Water-proof!", "waterproof coat")}, {"color": "blue", "size": "large"}, 1.0),
        ({"attributes": (), "bullet_points": ()}, {"color": "blue", "size": "large"}, 3 / 5),
        ({"title": "Acme Coat", "query": "coat", "product_category": "Clothing › Coats"}, {}, 3 / 5),
        ({"title": "Bell Cup", "query": "rain jacket"}, {}, 0.0),
    ],
)
def test_the_reward_counts_attributes_options_and_price(
    changes: dict[str, Any], chosen: dict[str, str], reward: float
) -> None:
    assert score_purchase(replace(WANTED, **changes), chosen, WISH, WANTED).reward == pytest.approx(reward)


def test_another_kind_of_product_is_worth_less() -> None:
    other = {"query": "x", "product_category": "y"}
    long = replace(WANTED, title="Acme rain jacket hood sleeves pockets")
    one_in_six = replace(WANTED, title="Blue jacket", **other)
    one_in_twelve = replace(long, title="aaa bbb ccc ddd eee fff ggg hhh iii jjj kkk jacket")
    assert score_purchase(one_in_six, {}, WISH, long).type_factor == 0.5
    assert score_purchase(replace(one_in_six, title="jacket"), {}, WISH, one_in_twelve).type_factor == 0.1


# --- Rows, catalogues and options ---


def test_the_embedded_files_hold_the_generated_goals() -> None:
    numbers = []
    for split in ("heldout", "train"):
        for task in read_tasks(str(DATA / f"embedded_webshop_{split}.jsonl"), "webshop"):
            assert SHOP.catalogue.goals[task.data["goal"]].instruction == task.instruction
            numbers.append(task.data["goal"])
    assert numbers == list(range(300))
    assert generated_catalogue().goals == SHOP.catalogue.goals != generated_catalogue(seed=1).goals


def test_rows_name_a_goal() -> None:
    task = WebShop.task({"goal": 3, "text": "Buy."})
    assert (task.key, task.instruction, task.data) == ("goal-3", "Buy.", {"goal": 3})
    assert WebShop.task(build_verl_row(task, "train", 0)) == task
    with pytest.raises(ValueError, match="no goal"):
        WebShop.task({"text": "Buy."})
    with pytest.raises(ValueError, match="goal is 300; expected a number below 300"):
        WebShop().reset(WebShop.task({"goal": 300}), 0)


def test_options_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"leafe\.environment\.options\.horizon is 0"):
        WebShop(horizon=0)
    with pytest.raises(ValueError, match=r"options\.product_file is 'a', goal_file None"):
        WebShop(product_file="a")
    with pytest.raises(ValueError, match=r"options\.goal_file is .*expected WebShop's JSON"):
        products = tmp_path / "products.json"
        products.write_text("[]")
        WebShop(product_file=str(products), goal_file=str(tmp_path / "none.json"))


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webshop, "EXTRA", {"no_such_module": "no-such-package"})
    with pytest.raises(ModuleNotFoundError, match=r"no-such-package; .*pip install leafe-verl\[webshop\]"):
        WebShop()


def test_the_horizon_is_an_option() -> None:
    assert started(horizon=2).horizon == 2 and WebShop().horizon == 15


ORIGINAL = {
    "asin": "B01", "name": "Green Tea, 20 Bags", "full_description": "A mild tea.", "small_description": ["Organic."],
    "pricing": "$4.50$9.50", "category": "grocery", "query": "Green Tea ", "product_category": "Grocery › Tea",
    "customization_options": {"Size": [{"value": "20 Bags "}, {"value": "40/60 bags"}], "Color": None},
}  # fmt: skip


def test_the_originals_files_are_read(tmp_path: Path) -> None:
    human = {
        "asin": "B01",
        "instruction": "i want tea.",
        "instruction_attributes": ["organic"],
        "instruction_options": ["20 bags"],
    }
    contents = {
        "product_file": [ORIGINAL, {**ORIGINAL, "name": "again"}, {**ORIGINAL, "asin": "B02", "pricing": None}],
        "goal_file": {"B01": [human, {**human, "instruction_attributes": []}], "B02": [{**human, "instruction": "b"}]},
        "attribute_file": {"B01": {"attributes": ["usda organic"]}},
    }
    files = {name: str(tmp_path / f"{name}.json") for name in contents}
    for name, content in contents.items():
        Path(files[name]).write_text(json.dumps(content))
    first, second = WebShop(**files), WebShop(**files)
    assert first.catalogue is second.catalogue and len(first.catalogue.goals) == 2
    product = first.catalogue["B01"]
    assert (product.title, product.query, product.attributes) == ("Green Tea, 20 Bags", "green tea", ("usda organic",))
    assert product.options == {"size": ("20 bags", "40 | 60 bags")}
    assert product.price_tag == "$4.5 to $9.5" and 4.5 <= product.price <= 9.5
    assert first.catalogue["B02"].price == 100
    goal = next(goal for goal in first.catalogue.goals if goal.asin == "B01")
    assert goal.instruction == f"i want tea, and price lower than {goal.price_upper:.2f} dollars"
    assert (goal.attributes, goal.options) == (("organic",), ("20 bags",))
    assert score_purchase(product, {"size": "20 bags"}, goal, product).reward == 1
