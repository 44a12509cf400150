"""Tokens of a formula."""

SYMBOLS = "+-*/^(),"


def tokenize(text: str) -> list[str]:
    """Return numbers, names and symbols. Raises ValueError for any other character."""
    tokens: list[str] = []
    position = 0
    while position < len(text):
        character = text[position]
        if character.isspace():
            position += 1
        elif character in SYMBOLS:
            tokens.append(character)
            position += 1
        else:
            end = word_end(text, position)
            tokens.append(text[position:end])
            position = end
    return tokens


def word_end(text: str, start: int) -> int:
    """Return where the number or name ends that begins at `start`."""
    end = start
    while end < len(text) and (text[end].isalnum() or text[end] in "._"):
        end += 1
    if end == start:
        raise ValueError(f"unexpected {text[start]!r} at {start}")
    return end


def is_number(token: str) -> bool:
    return token.replace(".", "", 1).isdigit()


def is_name(token: str) -> bool:
    return token[0].isalpha() or token[0] == "_"
