"""Text that tokenizers, files and UTF-8 can hold."""

import pytest

from leafe_verl.core.text import read_json, without_surrogates


def test_half_a_character_becomes_a_question_mark_and_the_rest_stays():
    assert without_surrogates("a \ud83d é 😀") == "a ? é 😀"


def test_json_may_spell_half_a_character():
    assert read_json('{"city": ["\\ud83d", "\\ud83d\\ude00 \u00e9", 1.5, null]}') == {"city": ["?", "😀 é", 1.5, None]}


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "9" * 5000])
def test_what_python_cannot_read_is_no_json(text):
    with pytest.raises(ValueError):
        read_json(text)
