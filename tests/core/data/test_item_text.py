"""Prices as shops write them."""

import pytest

from genrec_core.data.item_text import text_fields

AROUND = ("{}", " {} ", "{}\u00a0€", "€{}", "$ {}", "£{}", "{} EUR", "USD {}\n")


@pytest.mark.parametrize(
    ("written", "price"),
    [
        *(("3,50", 3.5), ("3,5", 3.5), ("12.99", 12.99), ("12", 12.0), ("-3,50", -3.5), (".99", 0.99)),
        *(("1,234", 1234.0), ("1,234,567", 1_234_567.0), ("1,234.50", 1234.5), ("1,234,567.8", 1_234_567.8)),
        *(("1.234", 1.234), ("1.234.567", 1_234_567.0), ("1.234,50", 1234.5), ("1.234.567,8", 1_234_567.8)),
        *(("1,23,456", 123_456.0), ("1234,50", 1234.5), ("1234.50", 1234.5), ("0,05", 0.05)),
        *(("12-15", None), ("12 15", None), ("1.2.3", None), ("1,2,3", None), ("1,234.567.890", None)),
        *(("1.234,567.8", None), ("", None), (",", None), ("free", None), ("3,50 each", None)),
    ],
)
def test_a_price_is_read_with_whatever_currency(written: str, price: float | None) -> None:
    for around in AROUND:
        assert text_fields({"price": around.format(written)})["price"] == price, around


def test_a_price_that_is_a_number_is_taken_as_it_is() -> None:
    values = (3.5, 12, 1e-5, 1e20, float("nan"), float("inf"), True, None, "NaN", "1e3", "50 ¢", "12$15")
    found = [text_fields({"price": value})["price"] for value in values]
    assert found == [3.5, 12.0, 1e-5, 1e20, None, None, None, None, None, 1000.0, None, None]
