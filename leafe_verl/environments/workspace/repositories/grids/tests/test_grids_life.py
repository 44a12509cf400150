from grids.life import count_alive, generations_until_still, lives_on, step


def test_count_alive():
    assert count_alive(["**", "*."], 1, 1) == 3


def test_lives_on():
    assert lives_on(True, 2) and lives_on(False, 3)
    assert not lives_on(False, 2) and not lives_on(True, 4)


def test_step():
    assert step([".*.", ".*.", ".*."]) == ["...", "***", "..."]


def test_generations_until_still():
    assert generations_until_still(["*.", ".."]) == 1
    assert generations_until_still([".*.", ".*.", ".*."], 5) is None
