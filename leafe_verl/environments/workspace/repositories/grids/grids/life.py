"""The game of life on a grid in which * is alive."""

from grids.cells import neighbours


def count_alive(lines: list[str], row: int, column: int) -> int:
    """Return the number of neighbours that are alive."""
    return sum(lines[r][c] == "*" for r, c in neighbours(lines, (row, column), corners=True))


def lives_on(alive: bool, around: int) -> bool:
    """Return whether a cell is alive in the next generation."""
    return around == 3 or (alive and around == 2)


def step(lines: list[str]) -> list[str]:
    """Return the next generation."""
    return [
        "".join(
            "*" if lives_on(symbol == "*", count_alive(lines, row, column)) else "."
            for column, symbol in enumerate(line)
        )
        for row, line in enumerate(lines)
    ]


def generations_until_still(lines: list[str], most: int = 100) -> int | None:
    """Return after how many generations nothing changes any more; None if that takes more than `most`."""
    for number in range(most + 1):
        following = step(lines)
        if following == lines:
            return number
        lines = following
    return None
