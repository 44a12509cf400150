"""Brings tokens into postfix order, in which operators follow their operands."""

from formulas.tokens import is_name, is_number

LEVELS = {"+": 1, "-": 1, "*": 2, "/": 2, "neg": 3, "^": 4}
RIGHT = ("^", "neg")


def to_postfix(tokens: list[str]) -> list[str]:
    """Return the tokens in postfix order, with `neg` for a minus before an operand."""
    output: list[str] = []
    waiting: list[str] = []
    previous = "("
    for token in tokens:
        if is_number(token) or is_name(token):
            output.append(token)
        elif token == "(":
            waiting.append(token)
        elif token == ")":
            close(output, waiting)
        else:
            operator = "neg" if token == "-" and not ends_operand(previous) else token
            while waiting and comes_first(waiting[-1], operator):
                output.append(waiting.pop())
            waiting.append(operator)
        previous = token
    while waiting:
        if waiting[-1] == "(":
            raise ValueError("a bracket is not closed")
        output.append(waiting.pop())
    return output


def close(output: list[str], waiting: list[str]) -> None:
    """Move the operators inside of a bracket to the output."""
    while waiting and waiting[-1] != "(":
        output.append(waiting.pop())
    if not waiting:
        raise ValueError("a bracket was not opened")
    waiting.pop()


def ends_operand(token: str) -> bool:
    return token == ")" or is_number(token) or is_name(token)


def comes_first(left: str, right: str) -> bool:
    """Return whether the operator on the left is applied before the one on the right."""
    if left == "(" or right == "neg":
        return False
    if LEVELS[left] == LEVELS[right]:
        return right not in RIGHT
    return LEVELS[left] > LEVELS[right]
