"""The table of stack.py, made of pytest's reports. Needs no environment for GPUs."""

from __future__ import annotations

import xml.etree.ElementTree as xml

import pytest

from gpu import stack
from gpu.stack import Case, Group, Ran

REPORT = """<testsuites><testsuite>
<testcase name="test_our_checks_pass[leafe_mbpp.sh]">
<properties><property name="found" value="1 of leafe"/></properties></testcase>
<testcase name="test_vllm_takes_it[leafe_mbpp.sh]"><failure message="AssertionError: no&#10;more"/></testcase>
<testcase name="test_our_checks_pass[ace_mbpp.sh]"><skipped message="vLLM is not installed"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def cases():
    return tuple(stack._cases(xml.fromstring(REPORT).iter("testcase")))


def test_a_report_tells_how_each_test_ended_and_what_it_found(cases):
    assert cases == (
        Case("test_our_checks_pass[leafe_mbpp.sh]", "passed", "1 of leafe"),
        Case("test_vllm_takes_it[leafe_mbpp.sh]", "failed", "AssertionError: no"),
        Case("test_our_checks_pass[ace_mbpp.sh]", "skipped", "vLLM is not installed"),
    )


def test_each_recipe_has_a_line(cases):
    lines = [*stack._group_lines(Ran(Group("recipes", (), by_recipe=True), cases, 3.2, 1))]
    assert lines[2] == "| recipes | 1 | 1 | 1 | 3 |"
    assert lines[4:] == [
        "| recipe | our checks pass | vllm takes it | what it runs |",
        "| --- | --- | --- | --- |",
        "| leafe_mbpp.sh | passed | failed | 1 of leafe; AssertionError: no |",
        "| ace_mbpp.sh | skipped |  | vLLM is not installed |",
    ]


def test_reasons_are_given_once(cases):
    lines = [*stack._group_lines(Ran(Group("fast", ()), (*cases, cases[-1]), 61, 0))]
    assert lines[-2:] == ["Skipped:", "- vLLM is not installed"]


def test_constraints_are_those_for_this_python():
    text = "# Versions\ntorch==2.11.0\nav==1 ; python_full_version < '3'\nav==2 ; python_full_version >= '3'\n"
    assert stack._constraints(text) == {"torch": "2.11.0", "av": "2"}
    assert {"verl", "vllm", "torch", "transformers", "ray"} <= {*stack._constraints(stack.CONSTRAINTS.read_text())}


def test_another_environment_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(stack, "_version", lambda name: None)
    assert stack.main(["--without-tests"]) == 1
    assert "no CUDA build of vLLM" in capsys.readouterr().err
