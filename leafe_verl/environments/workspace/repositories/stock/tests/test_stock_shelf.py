from stock.shelf import Shelf, merge


def test_add_and_take():
    shelf = Shelf()
    shelf.add("pen", 3)
    shelf.add("pen")
    assert shelf.take("pen", 3) == 3
    assert shelf.take("pen", 3) == 1
    assert shelf.counts == {}


def test_missing():
    shelf = Shelf()
    shelf.add("pen", 2)
    assert shelf.missing({"pen": 3, "cup": 1}) == {"pen": 1, "cup": 1}
    assert shelf.missing({"pen": 2}) == {}


def test_merge():
    assert merge({"b": 1}, {"a": 2, "b": 3}) == {"a": 2, "b": 4}
