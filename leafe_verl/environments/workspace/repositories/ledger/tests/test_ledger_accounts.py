from ledger.accounts import Account, transfer


def test_balance():
    account = Account("a")
    account.deposit("2024-01-01", "10")
    assert account.balance == 1000


def test_withdraw_up_to_the_limit():
    account = Account("a", limit=500)
    assert account.withdraw("2024-01-01", "5.00")
    assert not account.withdraw("2024-01-02", "0.01")
    assert account.balance == -500


def test_transfer():
    source, target = Account("a"), Account("b")
    source.deposit("2024-01-01", "3")
    assert transfer("2024-01-02", source, target, "2")
    assert not transfer("2024-01-02", source, target, "2")
    assert (source.balance, target.balance) == (100, 200)
