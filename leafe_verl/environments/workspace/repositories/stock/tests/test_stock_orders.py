from stock.orders import cheapest, discount, line_price, order_price, shipping


def test_discount():
    assert [discount(9), discount(10), discount(50), discount(200)] == [0, 5, 10, 20]


def test_line_price():
    assert line_price(99, 10) == 940


def test_shipping():
    assert shipping(4999) == 490
    assert shipping(5000) == 0
    assert shipping(5000, express=True) == 900


def test_order_price():
    assert order_price({"pen": 100, "cup": 500}, {"pen": 2, "cup": 1}) == 1190


def test_cheapest():
    offers = {"a": {"pen": 3}, "b": {"pen": 2}, "c": {"cup": 1}}
    assert cheapest(offers, {"pen": 1}) == "b"
    assert cheapest(offers, {"pen": 1, "cup": 1}) is None
