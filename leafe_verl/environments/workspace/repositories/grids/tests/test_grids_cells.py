from grids.cells import find_all, inside, neighbours, rotate

GRID = ["ab", "cd", "e"]


def test_inside():
    assert inside(GRID, (1, 1))
    assert not inside(GRID, (2, 1))
    assert not inside(GRID, (-1, 0))


def test_neighbours():
    assert neighbours(GRID, (0, 0)) == [(0, 1), (1, 0)]
    assert neighbours(GRID, (0, 0), corners=True) == [(0, 1), (1, 0), (1, 1)]


def test_find_all():
    assert find_all(["x.", ".x"], "x") == [(0, 0), (1, 1)]


def test_rotate():
    assert rotate(["ab", "cd"]) == ["ca", "db"]
