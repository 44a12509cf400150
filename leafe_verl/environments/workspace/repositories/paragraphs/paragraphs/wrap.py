"""Paragraphs in lines of limited width."""


def wrap(text: str, width: int) -> list[str]:
    """Return lines of at most `width` characters. A longer word gets a line of its own."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    if line:
        lines.append(line)
    return lines


def justify(line: str, width: int) -> str:
    """Return a line with blanks between words so that it is `width` long; wider gaps come first."""
    words = line.split()
    if len(words) < 2:
        return line
    missing = width - sum(len(word) for word in words)
    gap, wider = divmod(missing, len(words) - 1)
    parts = [word + " " * (gap + 1 if index < wider else gap) for index, word in enumerate(words[:-1])]
    return "".join(parts) + words[-1]


def paragraph(text: str, width: int) -> str:
    """Return a justified paragraph, whose last line is not stretched."""
    lines = wrap(text, width)
    return "\n".join([*(justify(line, width) for line in lines[:-1]), *lines[-1:]])


def indent(text: str, depth: int, first: bool = True) -> str:
    """Return a text with `depth` blanks before each line that is not empty; before the first only if `first`."""
    lines = text.split("\n")
    return "\n".join(
        " " * depth + line if line and (index > 0 or first) else line for index, line in enumerate(lines)
    )
