from ledger.money import format_amount, parse_amount, split_evenly


def test_parse_amount():
    assert parse_amount("12.5") == 1250
    assert parse_amount("1,200") == 120000
    assert parse_amount("-0.05") == -5


def test_format_amount():
    assert format_amount(120005) == "1,200.05"
    assert format_amount(-7) == "-0.07"


def test_split_evenly():
    assert split_evenly(100, 3) == [34, 33, 33]
