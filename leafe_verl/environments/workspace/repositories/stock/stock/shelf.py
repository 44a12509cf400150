"""What is in stock."""


class Shelf:
    """Counts of articles, by name."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, name: str, number: int = 1) -> None:
        if number < 1:
            raise ValueError("add at least one")
        self.counts[name] = self.counts.get(name, 0) + number

    def take(self, name: str, number: int = 1) -> int:
        """Take up to `number` articles. Returns how many there were to take."""
        taken = min(number, self.counts.get(name, 0))
        if taken:
            self.counts[name] -= taken
            if self.counts[name] == 0:
                del self.counts[name]
        return taken

    def missing(self, wanted: dict[str, int]) -> dict[str, int]:
        """Return name -> how many are missing, for all of which there are too few."""
        short = {name: number - self.counts.get(name, 0) for name, number in wanted.items()}
        return {name: number for name, number in short.items() if number > 0}


def merge(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    """Return the sums of two counts."""
    return {name: first.get(name, 0) + second.get(name, 0) for name in sorted({*first, *second})}
