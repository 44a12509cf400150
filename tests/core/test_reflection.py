"""Parsing a reflection from whatever a model writes, and the fallback for an invalid answer."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from leafe_verl.core.reflection import (
    experience_note,
    fallback_reflection,
    parse_reflection,
    reflection_prompt,
    reflection_schema,
    shorten,
)


def parse(text, num_steps=4, max_characters=400):
    return parse_reflection(text, num_steps, max_characters)


class TestParse:
    @pytest.mark.parametrize(
        "text",
        [
            '{"step": 2, "experience": "Look first."}',
            '  {"experience": "  Look first.\\n", "step": 2, "sure": true}  ',
            'I went wrong early. {"step": 2, "experience": "Look first."} That is all.',
            '```json\n{\n  "step": 2,\n  "experience": "Look first."\n}\n```',
            '{not json} {"a": {"b": 1}} {"step": 2, "experience": "Look first."}',
            '{"answer": {"step": 2, "experience": "Look first."}}',
            '{"step": "2", "experience": "Look first."}',
            '{"step": " 2 ", "experience": "Look first."}',
            '{"step": 2, "experience": "Look first."} {"step": 3, "experience": "The first answer counts."}',
            "STEP: 2\nEXPERIENCE: Look first.",
            "Well.\nstep : 2, because of that\n\nExperience:   Look first.  ",
            "STEP: 2 EXPERIENCE: Look first.",
        ],
    )
    def test_finds_the_answer(self, text):
        assert parse(text) == (2, "Look first.")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "no idea",
            "{}",
            "[2]",
            "null",
            '{"step": 2}',
            '{"experience": "Look first."}',
            '{"step": true, "experience": "Look first."}',
            '{"step": null, "experience": "Look first."}',
            '{"step": 2.5, "experience": "Look first."}',
            '{"step": [2], "experience": "Look first."}',
            '{"step": "two", "experience": "Look first."}',
            '{"step": "²", "experience": "Look first."}',
            '{"step": 2, "experience": ""}',
            '{"step": 2, "experience": " \\n "}',
            '{"step": 2, "experience": null}',
            '{"step": 2, "experience": ["Look first."]}',
            '{"step": 2, "experience": "Look fir',
            "STEP: 2",
            "EXPERIENCE: Look first.",
            "STEP: two\nEXPERIENCE: Look first.",
            "EXPERIENCE: Look first.\nSTEP: 2",
            "STEP: 2\nEXPERIENCE:   ",
        ],
    )
    def test_rejects_other_text(self, text):
        assert parse(text) is None

    @pytest.mark.parametrize(
        "experience",
        [
            "what was wrong there and how to do it right, in two sentences at most",
            "What was wrong there, and how to do it right.",
            "Two sentences at most",
            "1. Stop here and look back: which turn was the first to go wrong?",
        ],
    )
    def test_an_experience_that_repeats_the_question_is_no_answer(self, experience):
        assert parse(json.dumps({"step": 1, "experience": experience})) is None

    def test_an_experience_may_use_words_of_the_question(self):
        experience = "The first turn went wrong: it should have looked in the box."
        assert parse(json.dumps({"step": 1, "experience": experience})) == (1, experience)

    @pytest.mark.parametrize("step", [-1, 0, 5, 10**30])
    def test_a_step_out_of_range_is_no_answer(self, step):
        assert parse(f'{{"step": {step}, "experience": "e"}}') is None
        assert parse(f'{{"step": "{step}", "experience": "e"}}') is None
        assert parse(f"STEP: {step}\nEXPERIENCE: e") is None

    @pytest.mark.parametrize("step", [1, 4])
    def test_the_first_and_the_last_step_are_in_range(self, step):
        assert parse(f'{{"step": {step}, "experience": "e"}}') == (step, "e")

    @pytest.mark.parametrize("experience", ["use {x: {y}} here", 'say "no"', "a\nb", "é ✓ 漢", "{experience} %s"])
    def test_the_experience_is_verbatim(self, experience):
        assert parse(json.dumps({"step": 1, "experience": experience})) == (1, experience)

    def test_a_raw_line_break_in_a_string_is_read(self):
        assert parse('{"step": 1, "experience": "a\nb\tc"}') == (1, "a\nb\tc")

    def test_a_long_experience_is_shortened(self):
        step, experience = parse(json.dumps({"step": 1, "experience": "a" * 50_000 + "z"}), max_characters=100)
        assert (step, len(experience), experience[0], experience[-1]) == (1, 100, "a", "z")

    def test_a_lone_surrogate_is_replaced_since_tokenizers_refuse_it(self):
        step, experience = parse('{"step": 1, "experience": "go \\ud83d on"}')
        assert (step, experience) == (1, "go ? on")
        assert experience.encode()

    @pytest.mark.parametrize(
        "text",
        [
            "{" * 100_000,
            '{"' * 50_000,
            '{"step":' * 12_500,
            '{"a": [' * 14_000,
            "STEP: 1 " * 12_500,
            "STEP:" + " " * 100_000,
            '{"step": ' + "1" * 5_000 + ', "experience": "e"}',
            '{"step": "' + "1" * 5_000 + '", "experience": "e"}',
            "STEP: " + "1" * 100_000 + "\nEXPERIENCE: e",
            "\x00" * 1_000,
        ],
        ids=lambda text: text[:12],
    )
    def test_hostile_text_is_rejected_without_an_error(self, text):
        assert parse(text) is None


class TestSchema:
    # What a grammar can say; that an experience is more than spaces, the parser alone checks.
    @pytest.mark.parametrize(
        "value",
        [
            {"step": 1, "experience": "e"},
            {"step": 4, "experience": "e" * 10},
            {"step": 0, "experience": "e"},
            {"step": 5, "experience": "e"},
            {"step": True, "experience": "e"},
            {"step": None, "experience": "e"},
            {"step": 1, "experience": ""},
            {"step": 1, "experience": 1},
            {"step": 1},
            {"experience": "e"},
        ],
        ids=str,
    )
    def test_accepts_what_the_parser_does(self, value):
        schema = reflection_schema(num_steps=4, max_characters=10)
        assert conforms(value, schema) == (parse(json.dumps(value), 4, 10) is not None)

    def test_bounds_what_the_parser_would_shorten(self):
        schema = reflection_schema(num_steps=4, max_characters=10)
        assert conforms({"step": 1, "experience": "e" * 10}, schema)
        assert not conforms({"step": 1, "experience": "e" * 11}, schema)
        assert parse(json.dumps({"step": 1, "experience": "e" * 10}), 4, 10) == (1, "e" * 10)

    def test_admits_no_other_key(self):
        assert not conforms({"step": 1, "experience": "e", "mood": "low"}, reflection_schema(4, 10))


def conforms(value, schema):
    """Validate by the part of JSON schema that `reflection_schema` uses. An unknown keyword is an error."""
    checks = {
        "type": lambda kind: {
            "object": isinstance(value, dict),
            "integer": isinstance(value, int) and not isinstance(value, bool),
            "string": isinstance(value, str),
        }[kind],
        "minimum": lambda low: value >= low,
        "maximum": lambda high: value <= high,
        "minLength": lambda low: len(value) >= low,
        "maxLength": lambda high: len(value) <= high,
        "required": lambda keys: all(key in value for key in keys),
        "properties": lambda each: all(conforms(value[key], sub) for key, sub in each.items() if key in value),
        "additionalProperties": lambda allowed: allowed or set(value) <= set(schema["properties"]),
    }
    return all(checks[keyword](argument) for keyword, argument in schema.items())


@dataclass(frozen=True)
class Told:
    observation: str
    reward: float = 0.0
    error: bool = False


class TestFallback:
    def test_the_step_after_which_the_return_last_fell(self):
        steps = [Told("a", 1.0), Told("b", -1.0), Told("c", error=True), Told("d", -0.5), Told("e")]
        assert fallback_reflection(steps, 400) == (4, "d")

    def test_else_the_first_step_that_reported_an_error(self):
        steps = [Told("a", 1.0), Told(" Traceback\n", error=True), Told("c", error=True), Told("d")]
        assert fallback_reflection(steps, 400) == (2, "Traceback")

    def test_else_the_last_step(self):
        assert fallback_reflection([Told("a", 1.0), Told("b"), Told("c")], 400) == (3, "c")

    def test_empty_feedback_gives_an_experience_too(self):
        assert fallback_reflection([Told(" \n")], 400) == (1, "This turn did not help.")

    def test_long_feedback_is_shortened(self):
        step, experience = fallback_reflection([Told("a" * 500 + "z")], 50)
        assert (step, len(experience), experience[-1]) == (1, 50, "z")


class TestShorten:
    @pytest.mark.parametrize("length", [0, 1, 7, 8, 29, 200])
    def test_is_no_longer_than_its_limit(self, length):
        text = "".join(chr(ord("a") + number % 26) for number in range(length))
        for limit in range(1, 40):
            short = shorten(text, limit)
            assert len(short) == min(length, limit)
            head, _, tail = short.partition(" ... ")
            assert text.startswith(head) and text.endswith(tail)

    def test_keeps_both_ends(self):
        assert shorten("abcdefghijklmnop", 11) == "abc ... nop"
        assert shorten("abcdefghijklmnop", 12) == "abcd ... nop"
        assert shorten("abcdefghijklmnop", 16) == "abcdefghijklmnop"

    def test_drops_the_end_when_there_is_no_room_for_it(self):
        assert shorten("abcdefghijklmnop", 7) == "abcdefg"


def test_the_prompt_names_the_range_and_both_keys():
    prompt = reflection_prompt(3)
    assert "from 1 to 3" in prompt and '"step"' in prompt and '"experience"' in prompt


def test_the_note_holds_the_experience_verbatim():
    assert experience_note("use {braces} and %s").endswith("use {braces} and %s")
