"""What is shown of predictions agrees with a loop over the file, in CSV and in Parquet."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec_core.evaluation.pages.predictions import Shop, exposure_picture, lists_by_title, shown_counts

LISTS = {"a": [30, 10, None], "b": [10, 20, 30], "c": [40, None, None]}


@pytest.fixture
def shop() -> Shop:
    departments = pl.Series("department", ["Makeup", "Makeup", "Bath", "unknown"])
    return Shop(
        np.array([10, 20, 30, 50]), ["Top Coat", "Base Coat", "Soap", "item 50"], departments, np.array([5, 1, 2, 0])
    )


@pytest.fixture(params=["csv", "parquet"])
def predictions(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    columns = {f"pred_{place}": [items[place - 1] for items in LISTS.values()] for place in (1, 2, 3)}
    frame = pl.DataFrame({"user_id": list(LISTS), **columns})
    path = tmp_path / f"predictions.{request.param}"
    if request.param == "csv":
        frame.write_csv(path)
    else:
        frame.write_parquet(path)
    return path


def test_lists_name_the_newest_items_and_the_first_recommended(shop: Shop, predictions: Path) -> None:
    histories = [("b", [50, 10, 30]), ("not served", [10]), ("c", [])]
    assert lists_by_title(shop, histories, predictions, items=2) == [
        {"user": "b", "bought, newest first": "Soap; Top Coat", "recommended": "Top Coat; Base Coat"},
        {"user": "c", "bought, newest first": "", "recommended": "item 40, unknown"},
    ]


@pytest.mark.parametrize("places", [1, 2, 10])
def test_items_are_counted_among_the_first_places(shop: Shop, predictions: Path, places: int) -> None:
    counted = Counter(item for items in LISTS.values() for item in items[:places])
    assert shown_counts(shop, predictions, places).tolist() == [counted[item] for item in shop.item_ids.tolist()]


def test_the_exposure_is_drawn_also_where_nothing_is_shown(
    shop: Shop, predictions: Path, assert_picture: Callable[[bytes], None]
) -> None:
    assert_picture(exposure_picture(shop, shown_counts(shop, predictions)))
    assert_picture(exposure_picture(shop, np.zeros(4, dtype=np.int64)))


def test_a_model_without_its_catalogue_names_items_by_their_ids(tmp_path: Path) -> None:
    np.save(tmp_path / "item_ids.npy", np.array([7, 3]))
    np.save(tmp_path / "popularity.npy", np.array([1, 2]))
    shop = Shop.of_model(tmp_path)
    assert (shop.name(7), shop.name(3)) == ("item 7", "item 3")
    assert shop.departments.to_list() == ["unknown", "unknown"]
