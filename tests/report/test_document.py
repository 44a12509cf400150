"""The file: one document, nothing from elsewhere, nothing of the data as markup."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from leafe_verl.core import Outcome
from leafe_verl.report.chunks import inflate
from leafe_verl.report.document import SCRIPTS, write_report
from leafe_verl.report.records import RESULTS
from leafe_verl.report.sources import ReportedRun
from report.samples import HOSTILE, METRICS, hostile, reported, rescued, small_run


class Page(HTMLParser):
    """The elements of a document, and the texts of its scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.attributes, self.texts, self.inside = [], [], [], False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.attributes.append((tag, dict(attributes)))
        self.inside = tag in ("script", "style")
        if self.inside:
            self.texts.append((tag, dict(attributes), ""))

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            tag, attributes, text = self.texts[-1]
            self.texts[-1] = (tag, attributes, text + data)

    def data(self, name):
        return next(text for _, attributes, text in self.texts if attributes.get("id") == name)


@pytest.fixture
def page(tmp_path):
    def write(*runs):
        write_report(runs, tmp_path / "report.html")
        return Page((tmp_path / "report.html").read_text(encoding="utf-8"))

    return write


def test_the_policy_names_the_very_scripts_and_styles_of_the_file(page):
    found = page(small_run())
    policy = next(a["content"] for tag, a in found.attributes if a.get("http-equiv") == "Content-Security-Policy")
    texts = [text for tag, attributes, text in found.texts if "type" not in attributes]
    assert len(texts) == 1 + len(SCRIPTS)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
    assert re.findall(r"'sha256-([^']+)'", policy) == digests
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "http" not in policy


def test_the_file_asks_for_nothing_from_elsewhere(page):
    found = page(small_run())
    asked = [a[name] for _, a in found.attributes for name in ("src", "href", "srcset", "data") if name in a]
    assert asked == ["#main"]
    styles = [text for tag, _, text in found.texts if tag == "style"]
    assert not re.search(r"url\(|@import", styles[0]) and len(styles) == 1


def test_data_adds_no_element_but_its_own(page):
    plain = page(ReportedRun("a", [reported(rescued())]))
    hurt = page(ReportedRun(HOSTILE, [reported(hostile())], notes=(HOSTILE,)))
    assert hurt.elements == plain.elements
    assert [a for _, a in hurt.attributes][4:] == [a for _, a in plain.attributes][4:]


def test_index_and_chunks_lead_to_every_tree(page):
    run = small_run()
    found = page(run)
    index = json.loads(found.data("index"))
    assert index["results"] == list(RESULTS)
    rows = [dict(zip(index["columns"], row, strict=True)) for row in index["rows"]]
    trees = [inflate(found.data(f"chunk-{row['chunk']}"))["trees"][row["place"]] for row in rows]
    assert [tree["key"] for tree in trees] == [each.tree.task.key for each in run.trees]
    assert [tree["instruction"] for tree in trees] == [each.tree.task.instruction for each in run.trees]


def test_scripts_put_no_text_into_markup(page):
    scripts = [
        text for tag, attributes, text in page(small_run()).texts if tag == "script" and "type" not in attributes
    ]
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|setHTML|DOMParser"
    assert not any(re.search(markup, text) for text in scripts)


def test_every_outcome_has_words_in_the_picture(page):
    scripts = "".join(text for tag, _, text in page(small_run()).texts if tag == "script")
    endings = re.search(r"const ENDINGS = \{(.*?)\};", scripts, re.DOTALL)[1]
    assert set(re.findall(r"(\w+): ", endings)) == {outcome.value for outcome in Outcome}


def test_runs_stand_side_by_side(page):
    first = ReportedRun("first", [reported(rescued())], metrics=METRICS)
    found = page(first, ReportedRun("second", [reported(rescued())]))
    assert [run["name"] for run in json.loads(found.data("overview"))] == ["first", "second"]
    assert [row[0] for row in json.loads(found.data("index"))["rows"]] == [0, 1]


def test_a_report_that_fails_leaves_the_old_one(tmp_path):
    def broken():
        yield reported(rescued())
        raise ValueError("no tree")

    out = tmp_path / "report.html"
    out.write_text("old")
    with pytest.raises(ValueError, match="no tree"):
        write_report([ReportedRun("a", broken())], out)
    assert (out.read_text(), [path.name for path in tmp_path.iterdir()]) == ("old", ["report.html"])
