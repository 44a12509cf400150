from formulas.postfix import to_postfix


def test_levels():
    assert to_postfix(["1", "+", "2", "*", "3"]) == ["1", "2", "3", "*", "+"]
    assert to_postfix(["1", "-", "2", "-", "3"]) == ["1", "2", "-", "3", "-"]


def test_powers():
    assert to_postfix(["2", "^", "3", "^", "2"]) == ["2", "3", "2", "^", "^"]


def test_signs():
    assert to_postfix(["-", "2", "^", "2"]) == ["2", "2", "^", "neg"]
    assert to_postfix(["3", "*", "-", "x"]) == ["3", "x", "neg", "*"]


def test_brackets():
    assert to_postfix(["(", "1", "+", "2", ")", "*", "3"]) == ["1", "2", "+", "3", "*"]
