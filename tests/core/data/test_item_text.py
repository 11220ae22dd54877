"""Texts and prices as shops write them, and the template that joins them."""

import time

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_core.data.item_text import (
    ItemFields,
    categories_of,
    clean_text,
    render_text,
    template_of,
    template_parts,
    text_fields,
    values_of,
)
from genrec_core.errors import GenrecError
from genrec_core.settings import DEFAULT_TEXT_TEMPLATE

AROUND = ("{}", " {} ", "{}\u00a0€", "€{}", "$ {}", "£{}", "{} EUR", "USD {}\n")


@pytest.mark.parametrize(
    ("written", "price"),
    [
        *(("3,50", 3.5), ("3,5", 3.5), ("12.99", 12.99), ("12", 12.0), ("-3,50", -3.5), (".99", 0.99)),
        *(("1,234", 1234.0), ("1,234,567", 1_234_567.0), ("1,234.50", 1234.5), ("1,234,567.8", 1_234_567.8)),
        *(("1.234", 1.234), ("1.234.567", 1_234_567.0), ("1.234,50", 1234.5), ("1.234.567,8", 1_234_567.8)),
        *(("1,23,456", 123_456.0), ("1234,50", 1234.5), ("1234.50", 1234.5), ("0,05", 0.05)),
        *(("12-15", 12.0), ("12 15", None), ("1.2.3", None), ("1,2,3", None), ("1,234.567.890", None)),
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


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("Wash &amp; Go &#39;Men&#x27;s&#39; Gel", "Wash & Go 'Men's' Gel"),
        ('<span id="t">Soap</span>', "Soap"),
        ("<p>Soft<br/>and <b>cl</b>ean</p><UL class=x><li>one</li></UL>", "Soft and clean one"),
        ("&lt;b&gt;Soap&lt;/b&gt;<!-- old -->", "Soap"),
        *(
            (same, same)
            for same in ("5 < 6 > 3", "a <3 you", "Map<Text> <new>", "a <b and c> d", "AT&T, R&D; Arts&notes")
        ),
        *((nothing, None) for nothing in (None, "", " \t", float("nan"), "<br>", "&nbsp;", [])),
        *((("half \ud83d", "half \ufffd"), (["one", 2], "one 2"), (5, "5"))),
    ],
)
def test_a_text_is_freed_of_entities_and_markup(written: object, text: str | None) -> None:
    assert clean_text(written) == text


@given(st.text(st.sampled_from("<>&;/!-='\"ab p#3\n")))
def test_a_text_without_tags_only_loses_white_space(text: str) -> None:
    cleaned = clean_text(text)
    if "<" not in text and "&" not in text:
        assert (cleaned or "") == " ".join(text.split())


@pytest.mark.parametrize(
    "part", ["<", "<a ", "<a b=", '<a b="', "<a b='\"", "<!--", "<a b=c d=", "&#", "&amp;", "<br "]
)
def test_markup_that_never_closes_is_read_at_once(part: str) -> None:
    began = time.perf_counter()
    clean_text(part * 30_000)
    assert time.perf_counter() - began < 2


def test_several_values_are_told_from_one_path() -> None:
    assert categories_of(["Beauty", "Nails &amp; Co"]) == "Beauty > Nails & Co"
    assert categories_of([["Beauty", "Nails"], ["Gifts"], ["Gifts"]]) == "Beauty > Nails; Gifts"
    assert categories_of("Comedy|Romance|Comedy") == values_of(["Comedy", "Romance", None]) == "Comedy; Romance"
    assert categories_of("Beauty &gt; Nails") == "Beauty > Nails"
    assert categories_of("Comedy | Romance") == values_of("Comedy|Romance") == "Comedy; Romance"
    assert [values_of(value) for value in (None, [], 1994, "Soap | red")] == [None, None, "1994", "Soap | red"]


def test_the_template_of_any_columns_names_each() -> None:
    usual = {name: name.title() for name in ("title", "brand", "categories", "price")}
    assert template_of(usual) == DEFAULT_TEXT_TEMPLATE
    template = template_of({"größe": "Größe", "year": "Year", "rating": "Rating", "votes": "Votes"})
    parts = template_parts(template, ["größe", "year", "rating", "votes"])
    fields = {"größe": "A > B; C", "year": 1994.0, "rating": 4.25, "votes": None}
    assert render_text(parts, fields) == "Größe: A, B; C; Year: 1994; Rating: 4.25;"
    with pytest.raises(GenrecError, match=r"'Year: \{year\}': a part may hold one of the fields title, pages$"):
        template_parts("Year: {year};", ["title", "pages"])


def test_a_catalogue_says_what_its_texts_are_made_of() -> None:
    catalog = pl.DataFrame(
        {"item_id": ["a"], "title": ["Soap"], "price": [None], "pages": [3], "tags": ["x"], "text": ["Soap;"]}
    )
    own = ItemFields.of_catalog(catalog.with_columns(text_template=pl.lit("{title};")))
    assert own == ItemFields(text_template="{title};", texts=("title", "tags"), numbers=("price", "pages"))
    assert ItemFields.of_catalog(catalog).text_template == DEFAULT_TEXT_TEMPLATE
    assert own.with_template("{tags};").parts() == [("{tags};", "tags")]
    assert own.with_template(None) is own
