"""A report in headless Chromium, which tests run where they are asked for alone, and which run side by side."""

from __future__ import annotations

import os
import shutil

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


def pytest_addoption(parser):
    parser.addoption("--costly", action="store_true", help="also run tests marked costly, which take minutes each")


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(config, items):
    if not config.getoption("--costly"):
        for item in items:
            if item.get_closest_marker("costly"):
                item.add_marker(pytest.mark.skip(reason="takes minutes; --costly runs it"))
    if config.getoption("dist", "no") == "loadgroup":
        group_for_workers(items)


def group_for_workers(items):
    """Give one worker of pytest-xdist all runs of real processes, which it begins with: they last as long as the others
    together, and two at a time would need twice the memory. Tests of one file share its fixtures."""
    items.sort(key=lambda item: item.get_closest_marker("end_to_end") is None)
    for item in items:
        trains = item.get_closest_marker("end_to_end")
        item.add_marker(pytest.mark.xdist_group("end_to_end" if trains else item.path.as_posix()))


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is missing; pip install leafe-verl[browser] and install Chromium"
    )
    if not CHROMIUM:
        pytest.skip("Chromium is missing; apt-get install chromium, or set CHROMIUM")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=CHROMIUM)


@pytest.fixture
def opened(browser):
    """Opens a report; whatever the console says, and whatever is asked of the network, fails the test."""
    contexts, said = [], []

    def open_page(path, fragment="", **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("request", lambda request: said.append(request.url) if not request.url.startswith("file:") else None)
        page.goto(path.as_uri() + fragment)
        page.wait_for_selector("#tasks-heading", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
