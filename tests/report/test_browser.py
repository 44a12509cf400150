"""The report in headless Chromium: read, sorted, filtered, opened by click and by key, in light and dark, printed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from leafe_verl.report.chunks import to_json
from leafe_verl.report.document import write_report
from leafe_verl.report.sources import ReportedRun
from report.reading import barriers, column, unfold
from report.samples import HOSTILE, LONG_LINE, METRICS, hostile, reported, rescued, small_run, written_trees

pytestmark = pytest.mark.browser

HEADINGS = ["Task", "Environment", "Step", "Solved", "Best return", "Attempts"]


def write(out: Path, run: Callable[[], ReportedRun]) -> Path:
    """Write the report of a run, made in a thread of its own: playwright's event loop runs in this one."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: write_report([run()], out)).result()
    return out


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write(tmp_path_factory.mktemp("small") / "report.html", small_run)


def repeat(report: Path, times: int) -> None:
    """Make a report of so many times its trees, each with a place of its own in the file."""
    text = report.read_text(encoding="utf-8")
    chunks = re.findall(r'<script type="application/json" id="chunk-\d+">(.*)</script>', text)
    (index,) = re.findall(r'id="index">(.*)</script>', text)
    values = json.loads(index)
    chunk = values["columns"].index("chunk")
    rows = [
        [*row[:chunk], row[chunk] + n * len(chunks), *row[chunk + 1 :]] for n in range(times) for row in values["rows"]
    ]
    elements = [f'<script type="application/json" id="chunk-{n}">{c}</script>' for n, c in enumerate(chunks * times)]
    head = text[: text.index('<script type="application/json" id="chunk-0">')]
    head = head.replace(index, to_json({**values, "rows": rows}))
    report.write_text("\n".join([head, *elements, "</body></html>"]), encoding="utf-8")


def keys(page):
    return page.locator("table.tasks tbody th a").all_inner_texts()


def test_the_front_shows_figures_charts_and_tasks(opened, small):
    page = opened(small)
    assert "20.3 % → 33.6 %" in page.locator("#overview-section").inner_text()
    assert page.locator("figure.chart > svg").count() == 3
    assert len(keys(page)) == 7
    assert page.locator("table.tasks thead th").all_inner_texts()[:6] == HEADINGS


def test_a_click_on_a_heading_sorts_and_another_turns_the_order(opened, small):
    page = opened(small)
    page.click("table.tasks thead >> text=Best return")
    best = [float(text) for text in column(page, "Best return")]
    assert best == sorted(best, reverse=True) and len(set(best)) > 1
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("Best return")
    page.click("table.tasks thead >> text=Best return")
    assert [float(text) for text in column(page, "Best return")] == sorted(best)


def test_keys_with_numbers_sort_as_numbers(opened, small):
    page = opened(small)
    page.focus("table.tasks thead >> text=Task")
    page.keyboard.press("Enter")
    corridors = [key for key in keys(page) if key.startswith("corridor")]
    assert corridors == ["corridor-3", "corridor-12"]


def test_filters_narrow_the_list_together(opened, small):
    page = opened(small)
    page.fill("#filter-text", "WALK about")
    assert {key.split("-")[0] for key in keys(page)} == {"wander"}
    page.fill("#filter-text", "corridor")
    page.select_option("#filter-step", "2")
    assert keys(page) == ["corridor-12"]
    assert page.inner_text("#task-count") == "1 of 7 trees"
    page.fill("#filter-text", "")
    page.check("#filter-improved")
    page.select_option("#filter-result", label="↺ after rollback")
    assert all("after rollback" in text for text in column(page, "Solved"))
    page.fill("#filter-text", "nothing of the kind")
    assert keys(page) == []


def test_a_tree_and_a_step_open_by_click(opened, small):
    page = opened(small)
    page.click("text=corridor-3")
    assert page.inner_text("#tree-heading") == "corridor-3"
    assert page.locator("a.node").count() == 6
    assert page.inner_text(".notes").count("do not jump") == 1
    page.click('a.node[aria-label^="Attempt 1, step 2"]')
    step = page.locator("section.step")
    assert step.locator("h3").inner_text() == "Attempt 1, step 2"
    assert step.locator(".cause .verbatim").first.inner_text() == "do not jump"
    assert (step.locator("td.removed del").inner_text(), step.locator("td.added ins").inner_text()) == ("J", "R")
    assert step.locator(".messages .role").all_text_contents() == ["user", "assistant", "user"]
    assert step.locator(".token").all_inner_texts() == ["R", "<4>"]
    assert "L_cf" in step.inner_text() and "L_reh" in step.inner_text()


def test_everything_is_reached_by_keyboard(opened, small):
    page = opened(small)
    page.focus("#row-0")
    page.keyboard.press("Enter")
    page.wait_for_selector("#tree-heading:focus")
    for _ in range(3):  # the verbatim instruction, the picture
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('a.node')"):
            break

    def focused():
        return page.evaluate("document.activeElement.getAttribute('aria-label')").split(", return")[0]

    walked = [focused()]
    for name in ("ArrowRight", "ArrowDown", "ArrowRight", "ArrowLeft", "ArrowLeft", "End", "Home"):
        page.keyboard.press(name)
        walked.append(focused())
    places = [(0, 1), (0, 2), (1, 2), (1, 3), (1, 2), (0, 1), (1, 3), (0, 1)]
    assert walked == [f"Attempt {attempt}, step {step}" for attempt, step in places]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("#step-heading:focus")
    assert page.inner_text("#step-heading") == "Attempt 0, step 2"
    page.keyboard.press("Escape")
    page.wait_for_selector('a.node[aria-label^="Attempt 0, step 2"]:focus')
    page.keyboard.press("Escape")
    page.wait_for_selector("#row-0:focus")


def test_an_address_opens_a_step_and_back_goes_back(opened, small):
    page = opened(small, "#tree-0-1-2")
    assert page.inner_text("#step-heading") == "Attempt 1, step 2"
    page.click("text=step after")
    page.wait_for_function("document.getElementById('step-heading').textContent === 'Attempt 1, step 3'")
    page.go_back()
    page.wait_for_function("document.getElementById('step-heading').textContent === 'Attempt 1, step 2'")


@pytest.mark.parametrize("fragment", ["#tree-99", "#tree-x", "#tree-0-9-9", "#<img src=x onerror=alert(1)>"])
def test_an_address_of_nothing_shows_what_there_is(opened, small, fragment):
    page = opened(small, fragment)
    page.wait_for_function("!document.getElementById('front').hidden || document.querySelector('.picture')")
    assert page.locator("section.step").count() == 0


def test_hostile_text_stays_text(opened, small):
    page = opened(small)
    page.select_option("#filter-result", label="↺ after rollback")
    page.click("a:has-text('</script>')")
    page.click('a.node[aria-label^="Attempt 1, step 1"]')
    unfold(page)
    assert page.evaluate("window.hurt") is None
    assert page.locator("img, main script, main iframe").count() == 0
    shown = page.locator(".exchange .verbatim").last.inner_text()
    visible = {"\x00": "␀", "\x07": "␇", "\x1b": "␛", "\u202e": "⟨202E⟩", "\u202c": "⟨202C⟩"}
    visible |= {chr(code): f"⟨{code:04X}⟩" for code in (0xD83D, 0xDCFF)}
    assert shown == re.sub("|".join(map(re.escape, visible)), lambda found: visible[found[0]], HOSTILE)


def test_a_line_of_a_megabyte_is_shown_as_far_as_one_asks(opened, tmp_path):
    write(tmp_path / "report.html", lambda: ReportedRun("long", [reported(hostile(LONG_LINE))]))
    page = opened(tmp_path / "report.html", "#tree-0-1-1")
    page.wait_for_selector("section.step")
    feedback = page.locator(".exchange > div:last-child")
    assert len(feedback.locator(".verbatim").text_content()) == 20_000
    feedback.locator("button").click()
    assert feedback.locator(".verbatim").text_content() == LONG_LINE


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("fragment", ["", "#tree-0", "#tree-0-1-2", "#tree-6-1-1"])
def test_accessibility(opened, small, scheme, fragment):
    page = opened(small, fragment, color_scheme=scheme)
    page.wait_for_selector(".picture" if fragment else "table.tasks tbody tr")
    assert barriers(page) == []


def test_print_shows_what_was_folded(opened, small):
    page = opened(small, "#tree-0-1-2")
    page.wait_for_selector("section.step")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert not page.locator("nav.links").is_visible()
    assert page.pdf().startswith(b"%PDF")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() > 0


def test_a_narrow_window_scrolls_no_text_sideways(opened, small):
    page = opened(small, "#tree-0-1-2", viewport={"width": 400, "height": 800})
    page.wait_for_selector("section.step")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


@pytest.mark.parametrize(
    "before, after, rows",
    [
        ("a\nb\nc", "a\nB\nc", [["a", "a"], ["b", "B"], ["c", "c"]]),
        ("a", "a\nb", [["a", "a"], [None, "b"]]),
        ("a\nb\nc", "c", [["a", None], ["b", None], ["c", "c"]]),
        ("", "", [["", ""]]),
        ("a\nb", "c\nd\ne", [["a", "c"], ["b", "d"], [None, "e"]]),
    ],
)
def test_diffs(opened, small, before, after, rows):
    code = """([a, b]) => {
      const rows = rowsOf(editsOf(a.split("\\n"), b.split("\\n")));
      return rows.map((row) => row.map((side) => side && side.line));
    }"""
    assert opened(small).evaluate(code, [before, after]) == rows


def test_edits_turn_one_text_into_the_other(opened, small):
    code = """() => {
      let state = 1;
      const draw = (n) => (state = (state * 48271) % 2147483647) % n;
      for (let round = 0; round < 300; round++) {
        const [a, b] = [0, 1].map(() => Array.from({ length: draw(9) }, () => "abc"[draw(3)]));
        const kept = (own) => editsOf(a, b).filter(([kind]) => kind === "same" || kind === own).map(([, item]) => item);
        if (kept("removed").join() !== a.join() || kept("added").join() !== b.join()) return [a, b];
      }
      return null;
    }"""
    assert opened(small).evaluate(code) is None


def test_a_damaged_chunk_says_so(opened, small, tmp_path):
    text = small.read_text(encoding="utf-8")
    broken = tmp_path / "report.html"
    broken.write_text(re.sub(r'(id="chunk-0">).{40}', r"\1" + "A" * 40, text), encoding="utf-8")
    page = opened(broken, "#tree-0")
    page.wait_for_selector("[role=alert]")
    assert "write the report again" in page.inner_text("[role=alert]")


def test_ten_thousand_trees_open(opened, tmp_path, capsys):
    """Prints the time; a busy machine must not fail a test."""
    out = write(tmp_path / "report.html", lambda: ReportedRun("large", written_trees(500, 5), metrics=METRICS))
    repeat(out, 20)
    begun = time.perf_counter()
    page = opened(out)
    page.wait_for_selector("table.tasks tbody tr")
    listed = time.perf_counter() - begun
    page.click("#row-50")
    page.wait_for_selector(".picture")
    with capsys.disabled():
        megabytes = out.stat().st_size / 1e6
        took = f"list after {listed:.2f} s, a tree after {time.perf_counter() - begun:.2f} s"
        print(f"\n10,000 trees, {megabytes:.1f} MB: {took}")
    assert page.locator("table.tasks tbody tr").count() < 500


def test_a_report_without_trees_is_an_overview(opened, tmp_path):
    write(tmp_path / "report.html", lambda: ReportedRun("metrics alone", [], metrics=METRICS))
    page = opened(tmp_path / "report.html")
    assert "No tree was stored." in page.inner_text("#tasks-section")
    assert "20.3 %" in page.inner_text("#overview-section")


def test_a_run_of_one_tree(opened, tmp_path):
    write(tmp_path / "report.html", lambda: ReportedRun("one", [reported(rescued())]))
    page = opened(tmp_path / "report.html")
    assert page.inner_text("#task-count") == "1 tree"
