from grids.ways import distances, rooms, shortest


def test_distances():
    assert distances(["..", "#."], (0, 0)) == {(0, 0): 0, (0, 1): 1, (1, 1): 2}


def test_shortest():
    assert shortest(["S#E", "..."]) == 4
    assert shortest(["S#E"]) is None


def test_rooms():
    assert rooms([".#..", ".#.."]) == [4, 2]
