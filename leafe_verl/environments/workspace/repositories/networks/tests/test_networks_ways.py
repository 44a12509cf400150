from networks.build import build
from networks.ways import farthest, lengths_from, shortest_way, within

ROADS = build([("a", "b", 4), ("a", "c", 1), ("c", "b", 2), ("b", "d", 5), ("e", "a", 1)])


def test_lengths_from():
    assert lengths_from(ROADS, "a") == {"a": 0, "c": 1, "b": 3, "d": 8}


def test_shortest_way():
    assert shortest_way(ROADS, "a", "d") == ["a", "c", "b", "d"]
    assert shortest_way(ROADS, "a", "e") is None


def test_farthest():
    assert farthest(ROADS, "a") == ("d", 8)


def test_within():
    assert within(ROADS, "a", 3) == ["b", "c"]
