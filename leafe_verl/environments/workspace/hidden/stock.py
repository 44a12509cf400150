from stock.orders import cheapest, discount, line_price, order_price, shipping
from stock.reorder import average, days_left, pieces_to_order, urgent
from stock.shelf import Shelf, merge


def each(function, inputs):
    return [function(one) for one in inputs]


def filled(**counts):
    shelf = Shelf()
    for name, number in counts.items():
        shelf.add(name, number)
    return shelf


def taken(shelf, *moves):
    return [shelf.take(*move) for move in moves], shelf.counts


assert raises((ValueError, KeyError), filled().add("x", 0))
assert raises((ValueError, KeyError), filled().add("x", -1))
assert filled(x=2, y=1).counts == {"x": 2, "y": 1}
assert taken(filled(x=5), ("x", 2), ("x",)) == ([2, 1], {"x": 2})
assert taken(filled(x=1), ("y", 2)) == ([0], {"x": 1})
assert taken(filled(x=2, y=1), ("x", 2)) == ([2], {"y": 1})
assert filled(x=4).missing({"x": 6, "y": 2}) == {"x": 2, "y": 2}
assert filled(x=4).missing({"x": 4}) == {}
assert filled().missing({}) == {}
assert list(merge({"z": 1, "b": 2}, {"a": 1}).items()) == [("a", 1), ("b", 2), ("z", 1)]
assert merge({}, {}) == {}
assert each(lambda pieces: discount(pieces), (0, 1, 11, 49, 51, 99, 100)) == [0, 0, 5, 5, 10, 10, 20]
assert each(lambda pieces: line_price(333, pieces), (1, 9, 10, 55)) == [333, 2997, 3163, 16483]
assert line_price(10, 100) == 800
assert [shipping(0), shipping(5001), shipping(100, True)] == [490, 0, 1390]
assert order_price({"a": 1000, "b": 1}, {"a": 5}) == 5000
assert order_price({"a": 1000, "b": 1}, {"a": 4, "b": 10}, True) == 5399
assert raises((ValueError, KeyError), order_price({}, {"a": 1}))
assert order_price({}, {}) == 490
assert cheapest({"z": {"a": 5}, "y": {"a": 5}}, {"a": 1}) == "y"
assert cheapest({"z": {"a": 5000}, "y": {"a": 4700}}, {"a": 1}) == "z"
assert cheapest({}, {"a": 1}) is None
assert average([1, 2, 3, 4, 5, 6, 7, 8]) == 5.0
assert average([4], 3) == 4.0
assert days_left(10, [3]) == 3
assert days_left(0, [1, 2]) == 0
assert days_left(3, []) is None
assert pieces_to_order(0, [1], 10, 5) == 10
assert pieces_to_order(0, [1], 11, 5) == 15
assert pieces_to_order(10, [2], 5, 4) == 0
assert pieces_to_order(3, [], 5, 4) == 0
assert urgent({"a": 5, "b": 4, "c": 4, "d": 1}, {"a": [1], "b": [1], "c": [1]}, 5) == ["b", "c"]
assert urgent({"a": 9, "b": 2}, {"a": [9], "b": [1]}, 3) == ["a", "b"]
assert urgent({}, {}, 9) == []
