"""Cells of a grid, which are pairs (row, column), and grids, which are lists of lines."""

Cell = tuple[int, int]
SIDES = ((-1, 0), (0, -1), (0, 1), (1, 0))
CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))


def inside(lines: list[str], cell: Cell) -> bool:
    """Return whether a cell is in the grid. Lines may be of different lengths."""
    row, column = cell
    return 0 <= row < len(lines) and 0 <= column < len(lines[row])


def neighbours(lines: list[str], cell: Cell, corners: bool = False) -> list[Cell]:
    """Return the cells beside a cell, in the order of rows and columns."""
    row, column = cell
    moves = SIDES + CORNERS if corners else SIDES
    found = [(row + down, column + right) for down, right in moves]
    return sorted(each for each in found if inside(lines, each))


def find_all(lines: list[str], symbol: str) -> list[Cell]:
    """Return the cells with a symbol."""
    return [
        (row, column) for row, line in enumerate(lines) for column, found in enumerate(line) if found == symbol
    ]


def rotate(lines: list[str]) -> list[str]:
    """Return the grid turned to the right by a quarter."""
    return ["".join(column) for column in zip(*reversed(lines))]
