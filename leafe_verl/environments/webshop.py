"""WebShop in text: find the product that an instruction asks for, choose its options, buy it."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from leafe_verl.core.environment import Step
from leafe_verl.core.task import Task
from leafe_verl.environments.extras import require_extra
from leafe_verl.environments.options import SETTING, require_whole
from leafe_verl.environments.react import FORM, clean, extract_action
from leafe_verl.environments.rows import read_count, read_fields, task_key
from leafe_verl.environments.state_environment import StateEnvironment
from leafe_verl.environments.webshop_catalogue import Catalogue, Goal, Score, score_purchase
from leafe_verl.environments.webshop_files import read_catalogue
from leafe_verl.environments.webshop_generated import generated_catalogue

NAME = "webshop"
SYSTEM_PROMPT = f"""\
You shop on the web. Find the product that the instruction asks for, choose the options that it names, and buy it.
Actions: search[words] searches the shop; click[text] clicks a button, a product's number or an option on the page.
{FORM.format(thought="I look for the jacket first.", action="search[waterproof rain jacket]")}"""
SEPARATOR = " [SEP] "
RESULTS_A_PAGE = 10
SEARCH, BACK, NEXT, PREVIOUS, BUY = "Search", "Back to Search", "Next >", "< Prev", "Buy Now"
DESCRIPTION, FEATURES, REVIEWS, ATTRIBUTES = "Description", "Features", "Reviews", "Attributes"
DETAILS = (DESCRIPTION, FEATURES, REVIEWS, ATTRIBUTES)
EXTRA = {"rank_bm25": "rank-bm25", "rapidfuzz": "rapidfuzz"}
"""The modules of the optional extra, and the packages that have them."""


@dataclass(frozen=True)
class WebShopState:
    """What is on the screen."""

    task: Task
    results: tuple[str, ...] | None = None
    """Asins that the last search has found; None on the search page."""
    page: int = 1
    """Number of the page of results, counted from 1."""
    asin: str | None = None
    """Product on the screen; None on the search page and the pages of results."""
    chosen: tuple[tuple[str, str], ...] = ()
    """Options (name, value) that were clicked, in the order of the first click on each name."""
    detail: str | None = None
    """Which of DETAILS is on the screen; None on all other pages."""


class WebShop(StateEnvironment[WebShopState]):
    """An attempt's return is WebShop's score of the purchase, 0 without one. A score of 1 is success.

    A task names a goal of the catalogue by its number. A click on what is not on the page changes nothing and costs a
    step; the observation says so.
    """

    ability = "web"

    def __init__(
        self,
        product_file: str | None = None,
        goal_file: str | None = None,
        attribute_file: str | None = None,
        show_attributes: bool = False,
        horizon: int = 15,
        system_prompt: str = SYSTEM_PROMPT,
    ) -> None:
        """`product_file`, `goal_file`, `attribute_file`: paths of the original's items_shuffle_1000.json (or the full
        file, which takes several GB of memory), items_human_ins.json and items_ins_v2.json. Without them, a small
        generated catalogue is used.

        `show_attributes`: show a page with a product's attributes; the original has that page, turned off. `horizon`:
        actions after which an attempt ends; 15 in the literature (ReAct).
        """
        require_extra(NAME, EXTRA)
        require_whole(1, horizon=horizon)
        if (product_file is None) != (goal_file is None) or (attribute_file is not None and product_file is None):
            raise ValueError(
                f"{SETTING}.product_file is {product_file!r}, goal_file {goal_file!r} and "
                f"attribute_file {attribute_file!r}; expected the first two of one shop, or none of them"
            )
        self.horizon = horizon
        self.system_prompt = system_prompt
        self.catalogue = _catalogue(product_file, goal_file, attribute_file)
        self._details = DETAILS if show_attributes else DETAILS[:-1]

    @classmethod
    def task(cls, row: Mapping[str, Any], *, default_key: str | None = None) -> Task:
        """Return the task of {"goal": n}, with or without a text, or of a row of verl's parquet files.

        The text is for readers only; the agent is shown the goal's instruction from the catalogue. The key is
        `task_id`, by default made of the goal's number. Raises ValueError that says what came and what was expected.
        """
        fields = read_fields(row)
        goal = read_count(fields, "goal")
        if goal is None:
            raise ValueError("no goal; expected the number of one, from 0")
        return Task(task_key(fields, f"goal-{goal}"), str(fields.get("text") or ""), NAME, {"goal": goal})

    def reset(self, task: Task, seed: int) -> tuple[str, Mapping[str, Any]]:
        number, goals = task.data["goal"], self.catalogue.goals
        if number >= len(goals):
            raise ValueError(f"goal is {number}; expected a number below {len(goals)}, the goals of this catalogue")
        self.state = WebShopState(task)
        return SEPARATOR.join(self._screen(self.state)), {}

    def step(self, action: str) -> Step:
        before = self.state
        verb, text = self._command(action)
        if verb == "click" and text == BUY.lower() and before.asin and not before.detail:
            return self._buy(before, before.asin)
        found = self._searched(before, text) if verb == "search" else self._clicked(before, text)
        self.state = found or before
        notes = [f"Nothing happened: {_problem(verb, text)}"] if found is None else []
        if found and found.chosen and found.chosen != before.chosen:
            notes.append(f"You have clicked {text}.")
        return Step(
            observation=SEPARATOR.join([*notes, *self._screen(self.state)]),
            reward=0.0,
            terminated=False,
            truncated=False,
            info={"success": False, "error": found is None, **_told(verb, text)},
        )

    def _goal(self, state: WebShopState) -> Goal:
        number: int = state.task.data["goal"]
        return self.catalogue.goals[number]

    # --- Actions ---

    def _command(self, answer: str) -> tuple[str | None, str]:
        """Return the command in an answer. Where it can be read in two ways, the page tells which one it is."""
        verb, text = parse_command(answer)
        _, longer = parse_command(answer, _LONGER)
        if verb != "search" and longer and self._clicked(self.state, longer):
            return "click", longer
        return verb, text

    def _searched(self, state: WebShopState, words: str) -> WebShopState:
        return WebShopState(state.task, self.catalogue.search(words))

    def _clicked(self, state: WebShopState, text: str) -> WebShopState | None:
        """Return the state after a click; None if the page has no such thing to click."""
        if text == BACK.lower() and state.results is not None:
            return WebShopState(state.task)
        if state.asin is None:
            return self._clicked_on_results(state, text)
        if text == PREVIOUS.lower():
            return replace(state, detail=None) if state.detail else replace(state, asin=None, chosen=())
        return None if state.detail else self._clicked_on_item(state, state.asin, text)

    def _clicked_on_results(self, state: WebShopState, text: str) -> WebShopState | None:
        turn = {NEXT.lower(): 1, PREVIOUS.lower(): -1}.get(text)
        if turn is not None:
            page = state.page + turn
            return replace(state, page=page) if 1 <= page <= _num_pages(state) else None
        asin = next((asin for asin in _shown(state) if asin.lower() == text), None)
        return replace(state, asin=asin, chosen=()) if asin else None

    def _clicked_on_item(self, state: WebShopState, asin: str, text: str) -> WebShopState | None:
        if detail := next((detail for detail in self._details if detail.lower() == text), None):
            return replace(state, detail=detail)
        for name, values in self.catalogue[asin].options.items():
            if value := next((value for value in values if clean(value).lower() == text), None):
                return replace(state, chosen=tuple({**dict(state.chosen), name: value}.items()))
        return None

    def _buy(self, state: WebShopState, asin: str) -> Step:
        goal = self._goal(state)
        shop = self.catalogue
        score = score_purchase(shop[asin], dict(state.chosen), goal, shop[goal.asin], shop.exact_options)
        success = score.reward >= 1
        return Step(
            observation=SEPARATOR.join(_receipt(score, goal)),
            reward=score.reward,
            terminated=True,
            truncated=False,
            info={"success": success, "error": not success, **_told("click", BUY)},
        )

    # --- Pages ---

    def _screen(self, state: WebShopState) -> list[str]:
        instruction = ["Instruction:", self._goal(state).instruction]
        if state.results is None:
            return ["WebShop", *instruction, SEARCH]
        if state.asin is None:
            return [*instruction, BACK, *self._results_page(state)]
        body = self._detail_page(state.asin, state.detail) if state.detail else self._item_page(state.asin)
        return [*instruction, BACK, PREVIOUS, *body]

    def _results_page(self, state: WebShopState) -> list[str]:
        buttons = [PREVIOUS] * (state.page > 1) + [NEXT] * (state.page < _num_pages(state))
        lines = [f"Page {state.page} (Total results: {len(state.results or ())})", *buttons]
        for asin in _shown(state):
            product = self.catalogue[asin]
            lines += [asin, product.title, product.price_tag]
        return lines

    def _item_page(self, asin: str) -> list[str]:
        product = self.catalogue[asin]
        options = [text for name, values in product.options.items() for text in (name, *values)]
        facts = [product.title, f"Price: {product.price_tag}", f"Rating: {product.rating}"]
        return [*options, *facts, *self._details, BUY]

    def _detail_page(self, asin: str, detail: str) -> list[str]:
        product = self.catalogue[asin]
        texts = {
            DESCRIPTION: (product.description,),
            FEATURES: product.bullet_points,
            REVIEWS: product.reviews,
            ATTRIBUTES: product.attributes,
        }[detail]
        return [text for text in texts if text] or [f"No {detail.lower()}."]


_WORDS = r"(?:[^\[\]\n]|\[(?:[^\[\]\n]|\[[^\[\]\n]*\])*\])+"
"""Words with brackets in them, such as `9.5 [us]`, of which each one is closed."""
_ACTION = re.compile(rf"\b(?:search|click)[ \t]?\[{_WORDS}\]", re.IGNORECASE)
_LONGER = re.compile(r"\bclick[ \t]?\[[^\n]+\]", re.IGNORECASE)
"""A click up to the last bracket of its line, for an option with a bracket that is not closed."""


def parse_command(answer: str, form: re.Pattern[str] = _ACTION) -> tuple[str | None, str]:
    """Return the verb and the words of the action in an answer, in lower case; (None, "") if there is no action."""
    verb, bracket, words = (extract_action(answer, form) or "").lower().partition("[")
    return (verb.strip(), words.removesuffix("]").strip()) if bracket else (None, "")


def _told(verb: str | None, text: str) -> dict[str, str]:
    return {"action": f"{verb}[{text}]"} if verb else {}


def _problem(verb: str | None, text: str) -> str:
    return f"there is no {text!r} to click on this page." if verb else "expected search[words] or click[text]."


def _shown(state: WebShopState) -> tuple[str, ...]:
    return (state.results or ())[(state.page - 1) * RESULTS_A_PAGE : state.page * RESULTS_A_PAGE]


def _num_pages(state: WebShopState) -> int:
    return -(-len(state.results or ()) // RESULTS_A_PAGE)


def _receipt(score: Score, goal: Goal) -> list[str]:
    """Return the page after a purchase. It only has numbers, so as not to reveal the wanted attributes and options."""
    return [
        "Thank you for shopping with us!",
        f"Your score (min 0.0, max 1.0): {score.reward:.2f}",
        f"Kind of product: {score.type_factor:g} of 1",
        f"Attributes matched: {score.attributes} of {len(goal.attributes)}",
        f"Options matched: {score.options} of {len(goal.options)}",
        f"Price within the limit: {'yes' if score.in_budget else 'no'}",
    ]


_reading = threading.Lock()
"""Held while a catalogue is read: the original's takes gigabytes, which each of many attempts would read at once."""


def _catalogue(product_file: str | None, goal_file: str | None, attribute_file: str | None) -> Catalogue:
    with _reading:
        return _read_once(product_file, goal_file, attribute_file)


@functools.lru_cache(maxsize=2)
def _read_once(product_file: str | None, goal_file: str | None, attribute_file: str | None) -> Catalogue:
    if product_file is None or goal_file is None:
        return generated_catalogue()
    return read_catalogue(product_file, goal_file, attribute_file)
