from paragraphs.wrap import indent, justify, paragraph, wrap


def test_wrap():
    assert wrap("one two three", 7) == ["one two", "three"]


def test_justify():
    assert justify("a b c", 8) == "a   b  c"


def test_paragraph():
    assert paragraph("one two three four", 9) == "one   two\nthree\nfour"


def test_indent():
    assert indent("a\n\nb", 2) == "  a\n\n  b"
    assert indent("a\nb", 2, first=False) == "a\n  b"
