"""Ways through a grid in which # is a wall."""

from collections import deque

from grids.cells import Cell, find_all, neighbours


def distances(lines: list[str], start: Cell) -> dict[Cell, int]:
    """Return the number of steps from the start to each cell that can be reached."""
    found = {start: 0}
    waiting = deque([start])
    while waiting:
        cell = waiting.popleft()
        for row, column in neighbours(lines, cell):
            if lines[row][column] != "#" and (row, column) not in found:
                found[row, column] = found[cell] + 1
                waiting.append((row, column))
    return found


def shortest(lines: list[str]) -> int | None:
    """Return the number of steps from S to E; None if there is no way."""
    (start,), (end,) = find_all(lines, "S"), find_all(lines, "E")
    return distances(lines, start).get(end)


def rooms(lines: list[str]) -> list[int]:
    """Return the sizes of the connected open parts, the largest first."""
    seen: set[Cell] = set()
    sizes = []
    for row, line in enumerate(lines):
        for column, symbol in enumerate(line):
            if symbol != "#" and (row, column) not in seen:
                part = distances(lines, (row, column))
                seen.update(part)
                sizes.append(len(part))
    return sorted(sizes, reverse=True)
