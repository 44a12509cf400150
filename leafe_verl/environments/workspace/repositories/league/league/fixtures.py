"""Fixtures: everybody plays everybody."""

Pair = tuple[str, str]
FREE = "-"


def rounds(teams: list[str]) -> list[list[Pair]]:
    """Return the rounds, by the circle method: the first team stays, and the others move on by one place.

    With an odd number of teams, one is free in each round.
    """
    circle = teams if len(teams) % 2 == 0 else [*teams, FREE]
    half = len(circle) // 2
    found = []
    for _ in range(len(circle) - 1):
        pairs = zip(circle[:half], reversed(circle[half:]))
        found.append([pair for pair in pairs if FREE not in pair])
        circle = [circle[0], circle[-1], *circle[1:-1]]
    return found


def second_leg(first: list[list[Pair]]) -> list[list[Pair]]:
    """Return the rounds with home and away exchanged."""
    return [[(away, home) for home, away in pairs] for pairs in first]


def home_matches(schedule: list[list[Pair]], team: str) -> int:
    return sum(home == team for pairs in schedule for home, _ in pairs)


def longest_run_away(schedule: list[list[Pair]], team: str) -> int:
    """Return the largest number of matches that a team plays away, one after the other."""
    longest = run = 0
    for pairs in schedule:
        for home, away in pairs:
            if team == away:
                run += 1
                longest = max(longest, run)
            elif team == home:
                run = 0
    return longest
