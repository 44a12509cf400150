"""Ranks of teams."""

from league.results import Match, table


def ranked(matches: list[Match]) -> list[str]:
    """Return the teams: by points, then difference of goals, then goals, then name."""
    rows = table(matches)

    def place(team: str) -> tuple[int, int, int, str]:
        _, points, goals, against = rows[team]
        return -points, against - goals, -goals, team

    return sorted(rows, key=place)


def ranks(scores: dict[str, int]) -> dict[str, int]:
    """Return name -> rank. The highest score has rank 1, and equal scores share the better rank."""
    ordered = sorted(scores.values(), reverse=True)
    return {name: ordered.index(score) + 1 for name, score in scores.items()}


def leaders(matches: list[Match]) -> list[str]:
    """Return the teams with the most points, in the order of the alphabet."""
    rows = table(matches)
    most = max((row[1] for row in rows.values()), default=0)
    return sorted(team for team, row in rows.items() if row[1] == most)


def can_still_win(matches: list[Match], team: str, rounds: int) -> bool:
    """Return whether a team can still come to as many points as any other has, each team having `rounds` matches."""
    rows = table(matches)
    played, points, *_ = rows[team]
    best = max(row[1] for row in rows.values())
    return points + (rounds - played) * 3 >= best
