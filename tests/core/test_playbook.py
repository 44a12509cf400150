"""ACE's playbook: the question, what an answer changes, and the limits."""

from __future__ import annotations

import asyncio
import json

import pytest

from fakes import ScriptedPolicy, grow
from leafe_verl.core.playbook import LESSON_CHARACTERS, Delta, Playbook, delta_schema, look_back, parse_delta
from leafe_verl.core.policy import PolicyFailure
from leafe_verl.core.settings import PlaybookSettings

SETTINGS = PlaybookSettings(lessons=2)


def playbook(*lessons):
    return Playbook().merged([Delta(lessons=lessons)], 2000)


def test_an_empty_playbook_renders_to_nothing():
    assert Playbook().render() == ""


def test_lessons_are_numbered_in_their_order():
    assert playbook("check types", "read the test").render().splitlines()[1:] == [
        "[a1] check types",
        "[a2] read the test",
    ]


def test_a_lesson_known_already_is_counted_not_repeated():
    twice = playbook("check types").merged([Delta(lessons=("Check  types", "check types!"))], 2000)
    (advice,) = twice.advice
    assert (advice.text, advice.helpful) == ("check types", 3)


def test_votes_are_counted_once_a_look_and_unknown_keys_ignored():
    voted = playbook("check types").merged([Delta(helpful=("a1", "a1", "a9")), Delta(harmful=("a1",))], 2000)
    (advice,) = voted.advice
    assert (advice.helpful, advice.harmful) == (2, 1)


def test_advice_that_harms_more_than_it_helps_is_dropped():
    assert playbook("guess").merged([Delta(harmful=("a1",)), Delta(harmful=("a1",))], 2000).advice == ()


def test_advice_with_the_lowest_score_is_dropped_and_keys_are_never_reused():
    full = playbook("first piece of advice", "second, quite another")
    kept = full.merged([Delta(helpful=("a1",), lessons=("third: something else",))], len(full.render()))
    assert [each.key for each in kept.advice] == ["a1", "a3"]
    assert len(kept.render()) <= len(full.render())
    assert kept.merged([Delta(lessons=("the fourth of them all",))], 2000).advice[-1].key == "a4"


def test_a_playbook_survives_its_file():
    book = playbook("check types", "naïve \u2603")
    assert Playbook.from_json(book.to_json()) == book


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"advice": [{"colour": 1}], "made": 1}',
        '{"advice": 3, "made": 1}',
        '{"advice": [{"key": "a1", "text": 5}], "made": 1}',
        '{"advice": [{"key": "a1", "text": "x", "helpful": "2"}], "made": 1}',
        '{"advice": [{"key": "a1", "text": "x"}, {"key": "a1", "text": "y"}], "made": 2}',
    ],
)
def test_another_file_is_refused(text):
    with pytest.raises(ValueError, match="not a playbook"):
        Playbook.from_json(text)


def test_new_advice_does_not_replace_what_was_written_by_hand():
    book = Playbook.from_json('{"advice": [{"key": "a7", "text": "check types"}, {"key": "mine", "text": "be brief"}]}')
    assert [each.key for each in book.merged([Delta(lessons=("read the tests",))], 2000).advice] == ["a7", "mine", "a8"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"helpful": ["a1"], "harmful": [], "lessons": ["x"]}', Delta(("a1",), (), ("x",), 7)),
        ('Sure: {"lessons": ["a  b", 3, "", "y", "z"]} ok', Delta((), (), ("a b", "y"), 7)),
        ('{"lessons": "x", "helpful": 4}', Delta(num_tokens=7)),
        ('Here {is} my {"answer": 1}: {"helpful": ["a2"]}', Delta(("a2",), num_tokens=7)),
        ("no idea", Delta(num_tokens=7, parsed=False)),
        ("[1]", Delta(num_tokens=7, parsed=False)),
        ("{" * 5000, Delta(num_tokens=7, parsed=False)),
    ],
)
def test_any_answer_gives_a_delta(text, expected):
    assert parse_delta(text, SETTINGS, 7) == expected


def test_a_lesson_is_shortened_and_can_be_tokenised():
    (lesson,) = parse_delta(json.dumps({"lessons": ["\ud83d" + "x" * 999]}), SETTINGS, 7).lessons
    assert len(lesson) == LESSON_CHARACTERS
    lesson.encode("utf-8")


def test_the_schema_names_the_keys_there_are():
    schema = delta_schema(playbook("check types"), SETTINGS)
    assert schema["properties"]["helpful"]["items"] == {"enum": ["a1"]}
    assert delta_schema(Playbook(), SETTINGS)["properties"]["harmful"]["maxItems"] == 0


class Teacher(ScriptedPolicy):
    """Answers the question about its attempt with a given text, or fails."""

    def __init__(self, answer):
        super().__init__({"0": "L"})
        self.answer, self.asked = answer, []

    async def reflect(self, history, schema, request):
        self.asked.append(history)
        return await self._turn(self.answer)


def test_the_policy_looks_back_at_its_whole_attempt():
    teacher = Teacher('{"helpful": [], "harmful": [], "lessons": ["walk right"]}')
    tree = grow(teacher, budget={"depth": 0})
    delta = asyncio.run(look_back(teacher, tree, Playbook(), SETTINGS))
    assert delta.lessons == ("walk right",) and delta.num_tokens > 0
    (asked,) = teacher.asked
    assert sum(message["role"] == "assistant" for message in asked.messages) == len(tree.path(0))
    assert "up to 2 short pieces" in asked.messages[-1]["content"]


def test_a_policy_that_fails_changes_nothing():
    teacher = Teacher(PolicyFailure("no server"))
    delta = asyncio.run(look_back(teacher, grow(teacher, budget={"depth": 0}), Playbook(), SETTINGS))
    assert delta == Delta(parsed=False)
