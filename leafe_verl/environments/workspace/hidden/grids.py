from grids.cells import find_all, inside, neighbours, rotate
from grids.life import count_alive, generations_until_still, lives_on, step
from grids.ways import distances, rooms, shortest


def each(function, inputs):
    return [function(one) for one in inputs]


assert inside(["abc"], (0, 2)) == True
assert inside(["abc"], (0, 3)) == False
assert inside(["abc"], (0, -1)) == False
assert inside(["abc"], (1, 0)) == False
assert inside([], (0, 0)) == False
assert neighbours(["...", "...", "..."], (1, 1)) == [(0, 1), (1, 0), (1, 2), (2, 1)]
assert neighbours(["...", "...", "..."], (1, 1), True) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2)]
assert neighbours(["...", "...", "..."], (2, 2), True) == [(1, 1), (1, 2), (2, 1)]
assert neighbours(["."], (0, 0)) == []
assert find_all(["a.a", "..a"], "a") == [(0, 0), (0, 2), (1, 2)]
assert find_all(["..."], "a") == []
assert rotate(["abc", "def"]) == ["da", "eb", "fc"]
assert rotate([]) == []
assert distances(["...", ".#.", "..."], (0, 0)) == {(0, 0): 0, (0, 1): 1, (1, 0): 1, (0, 2): 2, (2, 0): 2, (1, 2): 3, (2, 1): 3, (2, 2): 4}
assert distances([".#."], (0, 2)) == {(0, 2): 0}
assert shortest(["SE"]) == 1
assert shortest(["S.#", ".##", "..E"]) == 4
assert shortest(["S#", "#E"]) is None
assert rooms(["###"]) == []
assert rooms([".#.", "##.", "..."]) == [5, 1]
assert rooms(["..", ".."]) == [4]
assert count_alive(["***", "***", "***"], 1, 1) == 8
assert count_alive(["*..", "..*"], 0, 1) == 2
assert each(lambda around: lives_on(True, around), range(6)) == [False, False, True, True, False, False]
assert each(lambda around: lives_on(False, around), range(6)) == [False, False, False, True, False, False]
assert step(["**", "**"]) == ["**", "**"]
assert step(["***", "...", "..."]) == [".*.", ".*.", "..."]
assert step([]) == []
assert generations_until_still(["**", "**"]) == 0
assert generations_until_still(["***", "...", "..."]) == 2
assert generations_until_still([".*.", ".*.", ".*."]) is None
assert generations_until_still(["*."], 0) is None
