from ledger.accounts import Account, transfer
from ledger.money import format_amount, parse_amount, split_evenly
from ledger.report import largest, lowest_balance, monthly_totals, running_balances, statement


def play(limit, *moves):
    account = Account("a", limit)
    told = [getattr(account, name)("2024-01-01", amount) for name, amount in moves]
    return told, account.balance, account.entries


def moved(have, amount, limit=0):
    source, target = Account("s", limit), Account("t")
    source.deposit("2024-01-01", have)
    return transfer("2024-01-02", source, target, amount), source.balance, target.balance


assert parse_amount("0.99") == 99
assert parse_amount("+7") == 700
assert parse_amount("-1,234.5") == -123450
assert parse_amount(".5") == 50
assert parse_amount("3.") == 300
assert raises(ValueError, parse_amount("1.234"))
assert raises(ValueError, parse_amount("-"))
assert not raises(ValueError, parse_amount("0.01"))
assert format_amount(0) == "0.00"
assert format_amount(-123456789) == "-1,234,567.89"
assert format_amount(9) == "0.09"
assert split_evenly(10, 4) == [3, 3, 2, 2]
assert split_evenly(9, 3) == [3, 3, 3]
assert split_evenly(1, 1) == [1]
assert raises(ValueError, split_evenly(5, 0))
assert play(0, ("deposit", "2"), ("withdraw", "1.5"), ("withdraw", "0.5"), ("withdraw", "0.01")) == ([None, True, True, False], 0, [("2024-01-01", 200), ("2024-01-01", -150), ("2024-01-01", -50)])
assert play(100, ("withdraw", "1.01"), ("withdraw", "1")) == ([False, True], -100, [("2024-01-01", -100)])
assert raises(ValueError, play(0, ("deposit", "0")))
assert raises(ValueError, play(0, ("deposit", "-1")))
assert moved("5", "5") == (True, 0, 500)
assert moved("5", "5.01") == (False, 500, 0)
assert moved("5", "6", 100) == (True, -100, 600)
assert monthly_totals([("2023-12-31", 5), ("2024-01-01", 7), ("2023-12-01", -2)]) == {"2023-12": 3, "2024-01": 7}
assert list(monthly_totals([("2024-02-01", 1), ("2024-01-01", 1)])) == ["2024-01", "2024-02"]
assert running_balances([]) == []
assert running_balances([("2024-01-01", 5), ("2024-01-02", -7)]) == [5, -2]
assert lowest_balance([("2024-01-01", 5)], 3) == 3
assert lowest_balance([("2024-01-01", -5), ("2024-01-02", 9)]) == -5
assert largest([("2024-01-02", 3), ("2024-01-01", -3), ("2024-01-03", 2)], 2) == [("2024-01-01", -3), ("2024-01-02", 3)]
assert largest([], 3) == []
assert statement([("2024-01-05", -5), ("2024-01-06", 100000)]) == "2024-01-05        -0.05\n2024-01-06     1,000.00\ntotal            999.95"
assert statement([]) == "total              0.00"
