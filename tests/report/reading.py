"""Reading a report as its readers do."""

from __future__ import annotations

import pytest


def unfold(page):
    page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")


def column(page, heading):
    place = [text.strip() for text in page.locator("table.tasks thead th").all_inner_texts()].index(heading)
    return page.locator(f"table.tasks tbody tr > :nth-child({place + 1})").all_inner_texts()


def barriers(page):
    """What axe finds that shuts readers out: the rule and the first element that breaks it."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe is missing; pip install leafe-verl[browser]"
    )
    unfold(page)
    violations = axe.Axe().run(page).response["violations"]
    return [(found["id"], found["nodes"][0]["html"]) for found in violations]


def read_through(opened, report):
    """Read the report of any run that explored: figures, list, a tree with a branch, its first revised step."""
    page = opened(report)
    assert "branches that improved" in page.locator("#overview-section").inner_text()
    page.click("table.tasks thead >> text=Best return")
    best = [float(text) for text in column(page, "Best return")]
    assert len(best) > 1 and best == sorted(best, reverse=True)
    assert barriers(page) == []

    page.click("table.tasks thead >> text=Branches improved")
    page.locator("table.tasks tbody th a").first.click()
    page.wait_for_selector(".picture")
    revised = page.locator(".notes li:has(.experience) a").first
    place = revised.get_attribute("href")
    revised.click()
    page.wait_for_selector("section.step")
    assert page.locator(".cause .diff tbody tr").count() > 0
    assert page.locator(".messages .role").count() > 0
    assert page.locator(f'a.node[href="{place}"][aria-current]').count() == 1
    assert barriers(page) == []
