from league.fixtures import home_matches, longest_run_away, rounds, second_leg
from league.ranking import can_still_win, leaders, ranked, ranks
from league.results import form, points, table

assert [points(0, 0), points(5, 0), points(0, 5)] == [1, 3, 0]
assert table([]) == {}
assert table([("X", "Y", 4, 2)]) == {"X": [1, 3, 4, 2], "Y": [1, 0, 2, 4]}
assert table([("X", "Y", 1, 1), ("Y", "X", 2, 0)]) == {"X": [2, 1, 1, 3], "Y": [2, 4, 3, 1]}
assert form([("X", "Y", 1, 0), ("Y", "X", 1, 1), ("Y", "X", 2, 0)], "X") == "LDW"
assert form([("X", "Y", 1, 0), ("Y", "X", 1, 1), ("Y", "X", 2, 0)], "Y", 2) == "WD"
assert form([("X", "Y", 1, 0)] * 7, "X") == "WWWWW"
assert form([("X", "Y", 1, 0)], "Z") == ""
assert ranked([("A", "B", 1, 0), ("C", "D", 3, 0)]) == ["C", "A", "B", "D"]
assert ranked([("A", "B", 1, 1), ("C", "D", 2, 2)]) == ["C", "D", "A", "B"]
assert ranked([("B", "A", 2, 2)]) == ["A", "B"]
assert ranked([("A", "B", 5, 0), ("C", "A", 1, 0), ("C", "B", 0, 0)]) == ["C", "A", "B"]
assert ranks({"a": 1, "b": 1, "c": 1}) == {"a": 1, "b": 1, "c": 1}
assert ranks({"a": 1, "b": 3, "c": 2}) == {"a": 3, "b": 1, "c": 2}
assert ranks({}) == {}
assert leaders([("B", "A", 1, 1), ("C", "D", 0, 0)]) == ["A", "B", "C", "D"]
assert leaders([("B", "A", 0, 2)]) == ["A"]
assert leaders([]) == []
assert can_still_win([("A", "B", 1, 0)], "B", 2) == True
assert can_still_win([("A", "B", 1, 0)], "B", 1) == False
assert can_still_win([("A", "B", 1, 0), ("A", "C", 1, 0)], "B", 3) == True
assert can_still_win([("A", "B", 1, 0), ("A", "C", 1, 0)], "B", 2) == False
assert rounds([]) == []
assert rounds(["A", "B"]) == [[("A", "B")]]
assert [len(pairs) for pairs in rounds(["A", "B", "C", "D", "E", "F"])] == [3, 3, 3, 3, 3]
assert len({frozenset(pair) for pairs in rounds(["A", "B", "C", "D", "E"]) for pair in pairs}) == 10
assert second_leg([[("A", "B"), ("C", "D")], []]) == [[("B", "A"), ("D", "C")], []]
assert home_matches([[("A", "B")], [("B", "A")], [("A", "C")]], "A") == 2
assert home_matches([], "A") == 0
assert longest_run_away([[("B", "A")], [("C", "A")], [("A", "B")], [("D", "A")]], "A") == 2
assert longest_run_away([[("A", "B")]], "A") == 0
assert longest_run_away([[("B", "A")], [("B", "C")], [("C", "A")]], "A") == 2
