"""Words of a text."""


def split_words(text: str) -> list[str]:
    """Return the words in lower case. A word holds letters, digits and apostrophes between letters."""
    words, word = [], ""
    for character in text.lower() + " ":
        if character.isalnum() or (character == "'" and word):
            word += character
        elif word:
            words.append(word.rstrip("'"))
            word = ""
    return words


def count_words(text: str) -> dict[str, int]:
    """Return word -> how often it occurs."""
    counts: dict[str, int] = {}
    for word in split_words(text):
        counts[word] = counts.get(word, 0) + 1
    return counts


def most_common(text: str, number: int) -> list[str]:
    """Return the most frequent words; of equally frequent ones, the first in the alphabet comes first."""
    counts = count_words(text)
    return sorted(counts, key=lambda word: (-counts[word], word))[:number]


def title_case(text: str, small: tuple[str, ...] = ("a", "of", "the", "and")) -> str:
    """Return a title, in which small words begin with a capital only at the start."""
    words = text.split()
    return " ".join(
        word.lower() if index > 0 and word.lower() in small else word[:1].upper() + word[1:].lower()
        for index, word in enumerate(words)
    )
