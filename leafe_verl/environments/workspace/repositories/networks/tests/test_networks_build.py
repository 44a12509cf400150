from networks.build import build, degree, reverse, sources

EDGES = [("a", "b", 4), ("a", "c", 1), ("c", "b", 2), ("a", "b", 3)]


def test_build():
    assert build(EDGES) == {"b": {}, "a": {"b": 3, "c": 1}, "c": {"b": 2}}


def test_reverse():
    assert reverse(build(EDGES)) == {"a": {}, "b": {"a": 3, "c": 2}, "c": {"a": 1}}


def test_sources():
    assert sources(build(EDGES)) == ["a"]


def test_degree():
    assert degree(build(EDGES), "c") == (1, 1)
    assert degree(build(EDGES), "b") == (2, 0)
