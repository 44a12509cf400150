"""Values of formulas."""

from formulas.postfix import to_postfix
from formulas.tokens import is_name, is_number, tokenize


def evaluate(text: str, names: dict[str, float] | None = None) -> float:
    """Return the value of a formula. Raises ValueError for one that makes no sense."""
    stack: list[float] = []
    for token in to_postfix(tokenize(text)):
        if is_number(token):
            stack.append(float(token))
        elif token == "neg":
            stack.append(-pop(stack))
        elif is_name(token):
            stack.append(look_up(token, names or {}))
        else:
            right, left = pop(stack), pop(stack)
            stack.append(apply(token, left, right))
    if len(stack) != 1:
        raise ValueError("no single value")
    return stack[0]


def pop(stack: list[float]) -> float:
    if not stack:
        raise ValueError("an operand is missing")
    return stack.pop()


def look_up(name: str, names: dict[str, float]) -> float:
    if name not in names:
        raise ValueError(f"unknown name {name}")
    return names[name]


def apply(operator: str, left: float, right: float) -> float:
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    if operator == "/":
        return left / right
    return left**right


def free_names(text: str) -> list[str]:
    """Return the names in a formula, each once, in the order of the alphabet."""
    return sorted({token for token in tokenize(text) if is_name(token)})


def table(text: str, name: str, first: int, last: int) -> list[float]:
    """Return the values of a formula for whole numbers from the first to the last."""
    return [evaluate(text, {name: number}) for number in range(first, last + 1)]
