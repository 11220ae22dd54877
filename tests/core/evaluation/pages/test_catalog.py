"""Tables and plots of a catalogue and its histories say what a loop over them finds."""

from collections import Counter
from collections.abc import Callable

import polars as pl
import pytest

from genrec_core.evaluation.pages.catalog import (
    catalog_picture,
    departments,
    field_coverage,
    histories_picture,
    interactions_by_item,
    largest,
)

NOTHING_KNOWN = pl.DataFrame(
    {"item_id": [1], "title": [None], "brand": [None], "categories": [None], "text": ["Item: a;"]},
    schema={"item_id": pl.Int64, "title": pl.String, "brand": pl.String, "categories": pl.String, "text": pl.String},
)


@pytest.fixture(scope="module")
def histories() -> pl.DataFrame:
    return pl.DataFrame({"user_id": ["a", "b"], "item_ids": [[2, 1, 7], [7, 2, 2]]})


def test_coverage_counts_values_and_shows_the_most_frequent_one() -> None:
    catalog = pl.DataFrame({"item_id": [1, 2, 3, 4], "brand": ["Opi", None, "Opi", "Avon"]})
    ids, brand = field_coverage(catalog)
    assert brand == {"field": "brand", "items": 3, "share": 0.75, "distinct": 2, "for example": "Opi"}
    assert (ids["share"], ids["distinct"], ids["for example"]) == (1.0, 4, "1")


def test_a_field_that_no_item_has_is_shown_as_empty() -> None:
    title = field_coverage(NOTHING_KNOWN)[1]
    assert title == {"field": "title", "items": 0, "share": 0.0, "distinct": 0, "for example": ""}


def test_a_department_is_the_level_below_the_root_of_the_first_path() -> None:
    paths = pl.Series(["Beauty > Makeup > Nails; Beauty > Bath", "Books", None])
    assert departments(paths).to_list() == ["Makeup", "Books", "unknown"]


def test_all_but_the_largest_names_become_others() -> None:
    names = pl.Series("name", ["b", "c", "a", "a", "b", "d"])
    assert largest(names, 2).to_list() == ["b", "others", "a", "a", "b", "others"]


def test_interactions_are_counted_by_item(histories: pl.DataFrame) -> None:
    counted = Counter(item for items in histories["item_ids"].to_list() for item in items)
    assert sorted(interactions_by_item(histories)) == sorted(counted.values())


def test_a_shop_is_drawn_also_where_nothing_is_known_of_it(
    tiny_catalog: pl.DataFrame, histories: pl.DataFrame, assert_picture: Callable[[bytes], None]
) -> None:
    assert_picture(catalog_picture(tiny_catalog))
    assert_picture(catalog_picture(NOTHING_KNOWN))
    assert_picture(histories_picture(histories))
    assert_picture(histories_picture(pl.DataFrame({"user_id": ["a"], "item_ids": [[5]]})))
    assert catalog_picture(tiny_catalog) == catalog_picture(tiny_catalog)
