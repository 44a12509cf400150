"""recipes/paper.md: its estimates of cost follow from the assumptions that it states, and its paths are there."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "recipes" / "paper.md"
TEXT = PAGE.read_text(encoding="utf-8")
GPUS = {7: 8, 14: 16, 32: 16, 72: 32}
TASKS = {"WebShop": 500, "ALFWorld": 140, "ScienceWorld": 150, "Sokoban": 500, "CodeContests": 165, "MBPP": 378}
TRAINED = 16_000
"""Attempts of stage 1."""


def number(cell):
    return float(cell.replace(",", "")) if cell else None


def hours(tokens, billions):
    return tokens * 1e6 / (2500 * 7 / billions * GPUS[billions]) / 3600


def test_every_line_of_the_cost_follows_from_the_assumptions():
    lines = TEXT.partition("evaluating one model: attempts")[2].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert len(rows) == 9
    for name, *cells in rows:
        environment, billions = name.split(", ")[0], int(name.split(", ")[1].removesuffix("B"))
        horizon, turn, *found = [number(cell) for cell in cells]
        expected = []
        for attempts in (TRAINED, 128 * TASKS[environment]):
            steps = attempts * horizon
            tokens = steps * turn / 1e6
            expected += [attempts, steps, round(tokens), round(hours(tokens, billions), 1)]
        assert found == ([None] * 3 if environment == "MBPP" else expected[1:4]) + expected[4:], name


def test_the_numbers_of_gpus_are_those_of_the_sizes():
    folder = PAGE.parents[1] / "leafe_verl" / "plugin" / "config" / "size"
    for billions, gpus in GPUS.items():
        (nodes,) = re.findall(
            r"nnodes: (\d)", (folder / f"{billions}b.yaml").read_text(encoding="utf-8").split("trainer:")[1]
        )
        assert 8 * int(nodes) == gpus


def test_the_page_says_that_nothing_was_run_and_its_links_are_there():
    assert "**Nothing on this page has been run.**" in TEXT
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", TEXT):
        assert (PAGE.parent / target).exists(), target
