"""What ``fit`` reads and refuses; ``tests/dagster/test_fit.py`` trains by it."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

from genrec_core import GenrecError, fit
from genrec_core.data.sources import load_tables, read_catalog
from genrec_core.fitting import Steps, _place_of
from genrec_core.settings import PRESETS, CatalogSettings
from genrec_core.storage.artifacts import locked

BOUGHT = {
    "customer": ["ann", "ben", "ann", "ben"],
    "sku": ["b", "a", "a", "c"],
    "date": [datetime(2024, 5, 3), datetime(2024, 5, 1), datetime(2024, 5, 2), datetime(2024, 5, 4)],
    "stars": [5.0, None, 4.0, 3.0],
}
GOODS = {
    "sku": ["a", "b", "c"],
    "title": ["Ale", "Beer", None],
    "price": [1.5, None, 2.0],
    "vector": [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]],
}


@pytest.fixture(params=["polars", "pandas", "files"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """Interactions and items in each form."""
    if request.param == "pandas":
        yield pd.DataFrame(BOUGHT), pd.DataFrame(GOODS)
        return
    bought, goods = pl.DataFrame(BOUGHT), pl.DataFrame(GOODS)
    if request.param == "files":
        bought.write_csv(tmp_path / "sales of may.csv")
        goods.write_parquet(tmp_path / "goods.parquet")
        yield tmp_path / "sales of may.csv", str(tmp_path / "goods.parquet")
        return
    yield bought, goods


def test_frames_and_files_give_the_same_tables(shop: tuple[Any, Any], tmp_path: Path) -> None:
    said: list[str] = []
    with _place_of(*shop) as place:
        raw = Steps(tmp_path / "fit", PRESETS["auto"], said.append).raw_beauty(place)
    items, histories = load_tables(raw)
    assert dict(histories.select("user_id", "item_ids").iter_rows()) == {
        "ann": ["a", "b"],
        "ben": ["a", "c"],
    }
    assert items["title"].to_list() == ["Ale", "Beer", None]
    assert items["price"].to_list() == [1.5, None, 2.0]
    assert read_catalog(raw, CatalogSettings())["vector"].to_list() == GOODS["vector"]
    assert said[0].startswith("tables: 4 interactions of 2 users, 3 items, 2024-05-01 to 2024-05-04")


def test_changed_data_make_another_version(tmp_path: Path) -> None:
    folders = set()
    for bought in (BOUGHT, BOUGHT, BOUGHT | {"sku": ["b", "a", "a", "a"]}):
        with _place_of(pl.DataFrame(bought), None) as place:
            folders.add(Steps(tmp_path, PRESETS["auto"], str).raw_beauty(place))
    assert len(folders) == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"preset": "bauty"}, "preset 'bauty': there is none of this name; choose one of sample, auto"),
        ({"settings": {"training": {"epoch": 3}}}, "settings=.*training.epoch: Extra inputs"),
        ({"settings": {"training": {"epochs": 0}}}, "training.epochs: Input should be greater"),
        ({"items": "nowhere.csv"}, "items: nowhere.csv is no CSV, JSON or Parquet file"),
        ({"items": [1, 2]}, "items: a list is neither a frame of polars or pandas nor a file"),
        ({"interactions": pl.DataFrame({"user": [1]})}, "no column is known as the item"),
        ({"interactions": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_fitted_is_refused(tmp_path: Path, arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(GenrecError, match=reason):
        fit(**{"interactions": pl.DataFrame(BOUGHT), "folder": tmp_path, **arguments})


def test_two_at_once_in_a_folder_are_refused(tmp_path: Path) -> None:
    with locked(tmp_path / ".fit.lock"), pytest.raises(GenrecError, match="another fit works there"):
        fit(pl.DataFrame(BOUGHT), folder=tmp_path)
