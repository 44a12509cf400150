"""Tables of plain text."""


def column_widths(rows: list[list[str]]) -> list[int]:
    """Return the width of the longest cell of each column. Rows may be of different lengths."""
    number = max((len(row) for row in rows), default=0)
    return [max(len(row[column]) for row in rows if column < len(row)) for column in range(number)]


def align(cell: str, width: int) -> str:
    """Return a cell of a width: numbers to the right, all else to the left."""
    is_number = cell.lstrip("-").replace(".", "", 1).isdigit()
    return cell.rjust(width) if is_number else cell.ljust(width)


def render(rows: list[list[str]]) -> str:
    """Return the rows as lines, with a rule below the first."""
    widths = column_widths(rows)
    lines = [" | ".join(align(cell, widths[column]) for column, cell in enumerate(row)).rstrip() for row in rows]
    if len(lines) > 1:
        lines.insert(1, "-+-".join("-" * width for width in widths))
    return "\n".join(lines)
