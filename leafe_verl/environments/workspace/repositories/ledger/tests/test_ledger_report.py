from ledger.report import largest, lowest_balance, monthly_totals, running_balances, statement

ENTRIES = [("2024-01-05", 1000), ("2024-02-01", -1500), ("2024-01-31", 200)]


def test_monthly_totals():
    assert monthly_totals(ENTRIES) == {"2024-01": 1200, "2024-02": -1500}


def test_balances():
    assert running_balances(ENTRIES, 100) == [1100, -400, -200]
    assert lowest_balance(ENTRIES, 100) == -400


def test_largest():
    assert largest(ENTRIES, 2) == [("2024-02-01", -1500), ("2024-01-05", 1000)]


def test_statement():
    assert statement([("2024-01-05", 1000)]) == "2024-01-05        10.00\ntotal             10.00"
