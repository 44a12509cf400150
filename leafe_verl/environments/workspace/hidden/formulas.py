from formulas.postfix import to_postfix
from formulas.tokens import is_name, is_number, tokenize
from formulas.values import evaluate, free_names, table


def each(function, inputs):
    return [function(one) for one in inputs]


assert tokenize("") == []
assert tokenize(" 12+ab ") == ["12", "+", "ab"]
assert tokenize("a/b^c,(d)") == ["a", "/", "b", "^", "c", ",", "(", "d", ")"]
assert raises(ValueError, tokenize("a & b"))
assert each(lambda token: is_number(token), ("0", "3.25", ".5", "1.", "1e", "-1", ".")) == [True, True, True, True, False, False, False]
assert each(lambda token: is_name(token), ("a1", "_", "1a", "+")) == [True, True, False, False]
assert to_postfix([]) == []
assert to_postfix(["7"]) == ["7"]
assert to_postfix(["a", "*", "b", "+", "c"]) == ["a", "b", "*", "c", "+"]
assert to_postfix(["a", "/", "b", "*", "c"]) == ["a", "b", "/", "c", "*"]
assert to_postfix(["(", "a", ")", "-", "b"]) == ["a", "b", "-"]
assert to_postfix(["-", "-", "a"]) == ["a", "neg", "neg"]
assert to_postfix(["-", "a", "*", "b"]) == ["a", "neg", "b", "*"]
assert to_postfix(["2", "^", "-", "3"]) == ["2", "3", "neg", "^"]
assert to_postfix(["(", "(", "a", "+", "b", ")", ")"]) == ["a", "b", "+"]
assert raises(ValueError, to_postfix(["(", "a"]))
assert raises(ValueError, to_postfix(["a", ")"]))
assert evaluate("1 - 2 - 3") == -4.0
assert evaluate("2 ^ 3 ^ 2") == 512.0
assert evaluate("8 / 4 / 2") == 1.0
assert evaluate("(1 + 2) * (3 - 5)") == -6.0
assert evaluate("-(2 + 3)") == -5.0
assert evaluate("2 * -3") == -6.0
assert evaluate("a * a - b", {"a": 3, "b": 2}) == 7.0
assert raises(ValueError, evaluate("a"))
assert raises(ValueError, evaluate("1 +"))
assert raises(ValueError, evaluate("1 2"))
assert raises(ValueError, evaluate(""))
assert evaluate(".5 + 1.") == 1.5
assert free_names("z + y * z") == ["y", "z"]
assert free_names("1 + 2") == []
assert table("x * x", "x", -1, 2) == [1.0, 0.0, 1.0, 4.0]
assert table("n / 2", "n", 3, 3) == [1.5]
assert table("n", "n", 2, 1) == []
