"""Rules: what they hold for, against plain Python item by item, and what is said of those that cannot be read."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_core.bundle.item_attributes import ItemAttributes
from genrec_core.bundle.item_table import ItemTable
from genrec_core.errors import GenrecError
from genrec_core.recommend.rules import LONGEST_RULE, Rule

ROWS: list[dict[str, Any]] = [
    {"item_id": 7, "title": "Red  Shatter Nail Polish", "brand": "OPI", "categories": "Beauty > Nails > Polish"},
    {"item_id": 3, "title": "Top Coat", "brand": "opi", "categories": "Beauty > Tools; Gifts > Women", "price": 4.5},
    {"item_id": 5, "title": "Shampoo", "brand": "Paul Mitchell", "categories": "Beauty > Hair", "price": 19.99},
    {"item_id": 9, "title": None, "brand": None, "categories": None, "price": 20.0},
    {"item_id": 1, "title": "Head and Shoulders", "brand": "P&G", "categories": "Beauty > Hair > Soap", "price": 20.5},
    {"item_id": -2, "title": "Crème (50 ml), \"rich\"", "brand": "L'Oréal", "categories": "Beauty", "price": 0.0},
]  # fmt: skip
SCHEMA = {"item_id": pl.Int64, "title": pl.String, "brand": pl.String, "categories": pl.String, "price": pl.Float64}


@pytest.fixture(scope="module")
def items() -> ItemAttributes:
    catalog = pl.DataFrame(ROWS, schema=SCHEMA)
    return ItemAttributes(ItemTable.of_catalog(catalog, catalog["item_id"].to_numpy()))


def chosen(items: ItemAttributes, text: str) -> list[int]:
    return [row["item_id"] for row, holds in zip(ROWS, Rule.parse(text).holds(items), strict=True) if holds]


@pytest.mark.parametrize(
    ("rule", "ids"),
    [
        ("brand = OPI", [7, 3]),
        ("BRAND=opi AND NOT Category = nails", [3]),
        ("brand = Paul Mitchell and price < 20", [5]),
        ("brand = Paul   Mitchell or title = top coat", [3, 5]),
        ("category = beauty", [7, 3, 5, 1, -2]),
        ("category = women or category = Polish", [7, 3]),
        ("category != hair", [7, 3, -2]),
        ("not category = hair", [7, 3, 9, -2]),
        ("price >= 19.99", [5, 9, 1]),
        ("price = $20", [9]),
        ("not price >= 19.99", [7, 3, -2]),
        ("price != 20", [3, 5, 1, -2]),
        ("brand in (P&G, 'paul mitchell', unheard of)", [5, 1]),
        ("brand = L'Oréal", [-2]),
        ("title contains red shatter", [7]),
        ("category contains AI", [7, 5, 1]),
        ('title = "head and shoulders"', [1]),
        (r'title contains "ml), \"rich"', [-2]),
        ("item_id in (7, -2) or item_id > 8", [7, 9, -2]),
        ("brand = OPI or brand = P&G and price > 100", [7, 3]),
        ("(brand = OPI or brand = P&G) and price > 1", [3, 1]),
        ("not not (item_id <= 3)", [3, 1, -2]),
    ],
)
def test_a_rule_holds_for_these_items(items: ItemAttributes, rule: str, ids: list[int]) -> None:
    assert chosen(items, rule) == ids


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("", "the rule is empty"),
        ("  ", "the rule is empty"),
        ("brnad = OPI", "character 1: 'brnad' is no field; the fields are brand, category, title, price, item_id"),
        ("brand = Head and Shoulders", "character 18: 'Shoulders' is no field"),
        ("brand = OPI and", "character 16: expected a field, found its end"),
        ("brand =", "character 8: expected a value of brand, found its end"),
        ("brand OPI", "character 7: expected one of = != < <= > >= in contains after brand, found 'OPI'"),
        ("brand == OPI", "character 7: expected one of"),
        ("brand = a, b", "character 10: expected 'and', 'or' or the end of the rule, found ','"),
        ("(brand = OPI", r"character 13: expected '\)', found its end"),
        ("brand = OPI)", "character 12: expected 'and', 'or' or the end"),
        ("brand in OPI", r"character 10: expected '\(', found 'OPI'"),
        ("brand in ()", r"character 11: expected a value of brand, found '\)'"),
        ("brand < OPI", "character 7: '<', but brand is text and takes = != in contains"),
        ("price contains 5", "character 7: 'contains', but price is a number"),
        ("price = cheap", "character 9: 'cheap' is not a number"),
        ("price < 1e3", "is not a number"),
        ("item_id = 1.5", "character 11: '1.5' is not an integer id"),
        ("item_id = 9223372036854775808", "is not an integer id"),
        ("brand = 'OPI", "character 9: the quote ' is never closed"),
        ("brand = ''", "is not a text; give brand another value"),
        ("not " * 60 + "brand = OPI", "nested deeper than 50"),
        ("(" * 60 + "brand = OPI", "character 51: nested deeper than 50"),
        ("brand = " + "x" * LONGEST_RULE, "has 10008 characters, but 10000 are the most"),
    ],
)
def test_a_rule_that_cannot_be_read_says_where_and_why(rule: str, said: str) -> None:
    with pytest.raises(GenrecError, match=said):
        Rule.parse(rule)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("brand = Pual Mitchell", ["no item has the brand 'pual mitchell'"]),
        ("category in (Nails, Hiar)", ["no item has the category 'hiar'"]),
        ("title contains zzz or brand = OPI", ["no item has a title that contains 'zzz'"]),
        ("price = 3 or price < 3 or item_id != 8", ["no item has the price 3.0", "no item has the item_id 8"]),
        ("brand = OPI and not category = Nails", []),
    ],
)
def test_what_no_item_has_is_named(items: ItemAttributes, rule: str, said: list[str]) -> None:
    assert Rule.parse(rule).unmatched(items) == said


def test_an_attribute_that_no_item_has_is_named() -> None:
    catalog = pl.DataFrame([{**row, "price": None} for row in ROWS], schema=SCHEMA)
    items = ItemAttributes(ItemTable.of_catalog(catalog, catalog["item_id"].to_numpy()))
    (said,) = Rule.parse("price < 5").unmatched(items)
    assert "no item of this model has a price" in said
    assert not Rule.parse("price < 5").holds(items).any()


def test_any_further_column_is_a_field() -> None:
    further = {"größe": ["S; M", None, "L"], "year": [1994.0, 1999.5, None], "title": ["A; b", "B", "c"]}
    ids = np.array(["b-1", "0005", "B 2"])
    catalog = pl.DataFrame({**dict.fromkeys(SCHEMA), "item_id": ids, **further, "empty": None, "text": "x"}).cast(
        {"brand": pl.String, "categories": pl.String, "price": pl.Float64}
    )
    items = ItemAttributes(ItemTable.of_catalog(catalog, ids))
    for rule, rows in {
        "Größe = m": [0], "größe contains L": [2], "größe != L": [0], "YEAR >= 1995": [1], "year in (1994, 5)": [0],
        "item_id = 0005": [1], "item_id = 5": [], "item_id contains b": [0, 2], "title = 'a; B'": [0], "title = b": [1],
    }.items():  # fmt: skip
        assert Rule.parse(rule, items.fields).holds(items).nonzero()[0].tolist() == rows, rule
    for rule, said in {
        "colour = red": "the fields are brand, category, title, price, item_id, größe, year ",
        "year = red": "'red' is not a number such as 19.99",
        "item_id < b": "item_id is text and takes = != in contains",
    }.items():
        with pytest.raises(GenrecError, match=said):
            Rule.parse(rule, items.fields)


# --- against plain Python ---------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["red", "Nail", "art", "50", "a", "tea tree", "Ü", "x-y", "and", "in", "o'b", '"q"', "a\\b", "("]
)
TEXTS = st.none() | st.lists(WORDS, min_size=1, max_size=2).map(" ".join)
NUMBERS = st.sampled_from([0.0, 1.0, 4.5, 19.99, 20.0])
ITEMS = st.lists(
    st.fixed_dictionaries(
        {
            "title": TEXTS,
            "brand": TEXTS,
            "paths": st.lists(st.lists(WORDS, min_size=1, max_size=3), max_size=2),
            "price": st.none() | NUMBERS,
        }
    ),
    min_size=1,
    max_size=6,
)
TEXT_TESTS = st.tuples(st.sampled_from(["title", "brand", "category"]), st.sampled_from(["=", "!=", "contains"]), WORDS)
LISTS = st.tuples(
    st.sampled_from(["title", "brand", "category"]), st.just("in"), st.lists(WORDS, min_size=1, max_size=3)
)
NUMBER_TESTS = st.tuples(st.just("price"), st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), NUMBERS)
TREES = st.recursive(
    TEXT_TESTS | LISTS | NUMBER_TESTS,
    lambda part: st.tuples(st.just("not"), part) | st.tuples(st.sampled_from(["and", "or"]), part, part),
    max_leaves=8,
)


def written(tree: tuple[Any, ...]) -> str:
    """The tree as a rule."""
    if tree[0] == "not":
        return f"not ({written(tree[1])})"
    if tree[0] in ("and", "or"):
        return f"({written(tree[1])}) {tree[0].upper()} ({written(tree[2])})"
    field, operator, value = tree
    if operator == "in":
        return f"{field} IN ({', '.join(map(quoted, value))})"
    return f"{field.title()} {operator} {quoted(value) if isinstance(value, str) else value}"


def quoted(word: str) -> str:
    plain = not set(word) & set("()\"'\\") and word not in ("and", "in")
    return word if plain else '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def holds(tree: tuple[Any, ...], item: dict[str, Any]) -> bool:
    """The same for one item, told by the definition."""
    if tree[0] == "not":
        return not holds(tree[1], item)
    if tree[0] in ("and", "or"):
        return (all if tree[0] == "and" else any)(holds(part, item) for part in tree[1:])
    field, operator, value = tree
    if field == "price":
        found, price = (
            {"=": "__eq__", "!=": "__ne__", "<": "__lt__", "<=": "__le__", ">": "__gt__", ">=": "__ge__"},
            None,
        )
        price = item["price"]
        return price is not None and getattr(price, found[operator])(value)
    names = [name for path in item["paths"] for name in path] if field == "category" else [item[field]]
    names = [name.lower() for name in names if name is not None]
    wanted = [word.lower() for word in value] if operator == "in" else value.lower()
    if operator == "contains":
        return any(wanted in name for name in names)
    if operator == "!=":
        return bool(names) and wanted not in names
    return any(name in wanted if operator == "in" else name == wanted for name in names)


@settings(max_examples=200, deadline=None)
@given(ITEMS, TREES)
def test_a_rule_holds_where_its_definition_does(rows: list[dict[str, Any]], tree: tuple[Any, ...]) -> None:
    catalog = pl.DataFrame(
        [
            {**row, "item_id": number, "categories": "; ".join(" > ".join(path) for path in row["paths"]) or None}
            for number, row in enumerate(rows)
        ],
        schema=SCHEMA,
    )
    items = ItemAttributes(ItemTable.of_catalog(catalog, np.arange(len(rows))))
    assert Rule.parse(written(tree)).holds(items).tolist() == [holds(tree, row) for row in rows]


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=60) | st.lists(st.sampled_from([*"=()<,", "brand", "and", "not", "in", "'a'", "5"])).map(" ".join)
)
def test_any_text_is_a_rule_or_an_error_that_names_a_place(text: str) -> None:
    said = "rule, character 1: none"
    try:
        Rule.parse(text)
    except GenrecError as error:
        said = str(error)
    assert "rule, character" in said or "the rule is empty" in said
