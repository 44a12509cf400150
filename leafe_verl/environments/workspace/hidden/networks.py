from networks.build import build, degree, reverse, sources
from networks.order import finish_times, in_order, levels
from networks.ways import farthest, lengths_from, shortest_way, within


def chain(*nodes):
    return build([(first, second, 2) for first, second in zip(nodes, nodes[1:])])


assert build([]) == {}
assert build([("x", "y", 2), ("x", "y", 5), ("y", "x", 1)]) == {"y": {"x": 1}, "x": {"y": 2}}
assert build([("x", "x", 3)]) == {"x": {"x": 3}}
assert reverse(chain("a", "b", "c")) == {"a": {}, "b": {"a": 2}, "c": {"b": 2}}
assert reverse({}) == {}
assert sources(build([("b", "c", 1), ("a", "c", 1)])) == ["a", "b"]
assert sources(build([("a", "b", 1), ("b", "a", 1)])) == []
assert degree(build([("a", "b", 1), ("c", "b", 1), ("b", "d", 1)]), "b") == (2, 1)
assert in_order(chain("c", "b", "a")) == ["c", "b", "a"]
assert in_order(build([("a", "d", 1), ("b", "c", 1)])) == ["a", "b", "c", "d"]
assert in_order(build([("c", "a", 1), ("c", "b", 1), ("b", "a", 1)])) == ["c", "b", "a"]
assert in_order(build([("s", "a", 1), ("a", "b", 1), ("b", "a", 1)])) is None
assert in_order({}) == []
assert levels(build([("a", "b", 9), ("a", "c", 9), ("b", "c", 9), ("c", "d", 9)])) == {"a": 0, "b": 1, "c": 2, "d": 3}
assert levels(build([("a", "c", 1), ("b", "c", 1)])) == {"a": 0, "b": 0, "c": 1}
assert raises(ValueError, levels(build([("a", "a", 1)])))
assert finish_times(chain("a", "b", "c"), {"a": 1, "b": 10, "c": 100}) == {"a": 1, "b": 11, "c": 111}
assert finish_times(build([("a", "c", 1), ("b", "c", 1)]), {"a": 7, "b": 2, "c": 1}) == {"a": 7, "b": 2, "c": 8}
assert lengths_from(chain("a", "b", "c", "d"), "b") == {"b": 0, "c": 2, "d": 4}
assert lengths_from(build([("a", "b", 1), ("b", "a", 1)]), "a") == {"a": 0, "b": 1}
assert lengths_from(build([("a", "b", 9), ("a", "c", 1), ("c", "d", 1), ("d", "b", 1)]), "a") == {"a": 0, "c": 1, "d": 2, "b": 3}
assert shortest_way(chain("a", "b", "c"), "a", "a") == ["a"]
assert shortest_way(chain("a", "b", "c"), "c", "a") is None
assert shortest_way(build([("a", "b", 9), ("a", "c", 4), ("c", "b", 4)]), "a", "b") == ["a", "c", "b"]
assert shortest_way(build([("a", "b", 1), ("a", "c", 1), ("b", "d", 1), ("c", "d", 1)]), "a", "d") == ["a", "b", "d"]
assert farthest(chain("a", "b", "c"), "a") == ("c", 4)
assert farthest(build([("a", "c", 3), ("a", "b", 3)]), "a") == ("b", 3)
assert farthest(build([("a", "b", 1)]), "b") == ("b", 0)
assert within(chain("a", "b", "c", "d"), "a", 4) == ["b", "c"]
assert within(chain("a", "b", "c", "d"), "a", 1) == []
assert within(build([("a", "c", 1), ("a", "b", 2), ("a", "d", 3)]), "a", 2) == ["b", "c"]
