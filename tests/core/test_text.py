"""Text that tokenizers, files and UTF-8 can hold."""

from leafe_verl.core.text import without_surrogates


def test_half_a_character_becomes_a_question_mark_and_the_rest_stays():
    assert without_surrogates("a \ud83d é 😀") == "a ? é 😀"
