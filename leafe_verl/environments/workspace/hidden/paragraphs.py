from paragraphs.table import align, column_widths, render
from paragraphs.words import count_words, most_common, split_words, title_case
from paragraphs.wrap import indent, justify, paragraph, wrap

assert split_words("It's 5 o'clock.") == ["it's", "5", "o'clock"]
assert split_words("") == []
assert split_words("'tis dogs' x-y") == ["tis", "dogs", "x", "y"]
assert count_words("One one, two!") == {"one": 2, "two": 1}
assert count_words("...") == {}
assert most_common("x y z z", 1) == ["z"]
assert most_common("c b a", 2) == ["a", "b"]
assert most_common("c b b a a a", 9) == ["a", "b", "c"]
assert title_case("a tale of two cities") == "A Tale of Two Cities"
assert title_case("THE end AND") == "The End and"
assert title_case("war and peace", ("war",)) == "War And Peace"
assert wrap("aa bb cc", 5) == ["aa bb", "cc"]
assert wrap("aa bb cc", 4) == ["aa", "bb", "cc"]
assert wrap("abcdefgh ij", 3) == ["abcdefgh", "ij"]
assert wrap("", 5) == []
assert wrap("a b c d", 7) == ["a b c d"]
assert justify("aa bb", 6) == "aa  bb"
assert justify("a b c d", 12) == "a   b   c  d"
assert justify("word", 9) == "word"
assert justify("a b c", 9) == "a   b   c"
assert paragraph("aa bb cc dd ee", 6) == "aa  bb\ncc  dd\nee"
assert paragraph("a", 6) == "a"
assert paragraph("", 6) == ""
assert indent("x", 3) == "   x"
assert indent("x\ny\n", 1) == " x\n y\n"
assert indent("x\ny", 1, False) == "x\n y"
assert column_widths([]) == []
assert column_widths([["abc", "d"], ["e", "fgh", "ij"]]) == [3, 3, 2]
assert align("-2.5", 6) == "  -2.5"
assert align("1.2.3", 6) == "1.2.3 "
assert align("", 2) == "  "
assert render([["a", "b"]]) == "a | b"
assert render([["id", "word"], ["1", "hello"], ["20", "x"]]) == "id | word\n---+------\n 1 | hello\n20 | x"
assert render([]) == ""
