from paragraphs.words import count_words, most_common, split_words, title_case


def test_split_words():
    assert split_words("Don't stop, 'now'!") == ["don't", "stop", "now"]


def test_count_words():
    assert count_words("a b A") == {"a": 2, "b": 1}


def test_most_common():
    assert most_common("b a b c a d", 3) == ["a", "b", "c"]


def test_title_case():
    assert title_case("the lord OF the rings") == "The Lord of the Rings"
