from formulas.tokens import is_name, is_number, tokenize


def test_tokenize():
    assert tokenize("2.5*(x_1 - y)") == ["2.5", "*", "(", "x_1", "-", "y", ")"]


def test_tokenize_refuses():
    try:
        tokenize("2 $ 3")
    except ValueError as error:
        assert str(error) == "unexpected '$' at 2"
    else:
        raise AssertionError("no error")


def test_kinds():
    assert is_number("2.5") and not is_number("2.5.1") and not is_number("x")
    assert is_name("_x") and not is_name("2")
