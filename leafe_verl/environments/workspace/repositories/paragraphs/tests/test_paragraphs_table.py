from paragraphs.table import align, column_widths, render


def test_column_widths():
    assert column_widths([["a", "bbb"], ["cc"]]) == [2, 3]


def test_align():
    assert align("7", 3) == "  7"
    assert align("x", 3) == "x  "


def test_render():
    assert render([["name", "n"], ["x", "10"]]) == "name | n\n-----+---\nx    | 10"
