"""Results of matches, which are (home, away, goals of home, goals of away)."""

Match = tuple[str, str, int, int]
WIN, DRAW, LOSS = 3, 1, 0


def points(own: int, other: int) -> int:
    """Return the points for the goals of a team and of its opponent."""
    if own > other:
        return WIN
    return DRAW if own == other else LOSS


def table(matches: list[Match]) -> dict[str, list[int]]:
    """Return team -> [matches, points, goals, goals against]."""
    rows: dict[str, list[int]] = {}
    for home, away, scored, conceded in matches:
        add(rows.setdefault(home, [0, 0, 0, 0]), scored, conceded)
        add(rows.setdefault(away, [0, 0, 0, 0]), conceded, scored)
    return rows


def add(row: list[int], own: int, other: int) -> None:
    """Add a match to a team's row."""
    row[0] += 1
    row[1] += points(own, other)
    row[2] += own
    row[3] += other


def form(matches: list[Match], team: str, number: int = 5) -> str:
    """Return the last results of a team as letters W, D and L, the latest first."""
    letters = []
    for home, away, scored, conceded in matches:
        if team in (home, away):
            difference = scored - conceded if team == home else conceded - scored
            letters.append("W" if difference > 0 else "D" if difference == 0 else "L")
    return "".join(reversed(letters[-number:]))
