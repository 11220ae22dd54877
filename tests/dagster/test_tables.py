"""The whole graph on a shop's own tables, whose ids are text of every kind, and on every known layout."""

import csv
from pathlib import Path

import polars as pl
import pytest

from genrec_core.data.archive import fingerprint
from genrec_core.data.sources import load_tables
from genrec_core.storage.folders import latest
from tests.core.data.test_tables import LAYOUTS, write
from tests.dagster.conftest import FinishedGraph

ODD = ["{:05d}", "a,{}", 'the "{}"', "\u00fc {}", "978-{}-x"]  # leading noughts, comma, quotes, space and letters


def odd(number: int) -> str:
    return ODD[number % len(ODD)].format(number)


@pytest.fixture(scope="module")
def own_tables(sample_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny shop as CSV and JSON lines, under other names of columns, with times and a column of its own."""
    items, histories = load_tables(sample_folder)
    folder = tmp_path_factory.mktemp("own") / "shop"
    folder.mkdir()
    bought = histories.with_row_index("user").explode("item_ids").with_row_index("time")
    bought.select(
        pl.col("user").map_elements(odd, pl.String).alias("customer_id"),
        pl.col("item_ids").map_elements(odd, pl.String).alias("sku"),
        (1_700_000_000_000 + 60_000 * pl.col("time").cast(pl.Int64)).alias("created_at"),
    ).write_csv(folder / "interactions.csv")
    listed = items.select(
        pl.col("item_id").map_elements(odd, pl.String).alias("sku"),
        pl.col("title").alias("name"),
        "brand",
        pl.col("categories").str.split(" > ").alias("category"),
        pl.col("price").round(0).cast(pl.Int64).alias("Price"),
        (pl.col("item_id") % 3).replace_strict({0: "red", 1: "green", 2: "blue"}).alias("Main colour"),
    )
    listed.write_ndjson(folder / "items.jsonl")
    return folder


@pytest.fixture(scope="module")
def graph(own_tables: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedGraph:
    return FinishedGraph(tmp_path_factory.mktemp("graph"), own_tables)


def test_every_asset_is_built_and_every_gate_passes(graph: FinishedGraph) -> None:
    assert graph.result.success
    failed = [e.check_name for e in graph.result.get_asset_check_evaluations() if not e.passed and e.blocking]
    assert failed == []


def test_predictions_hold_the_tables_own_ids_byte_for_byte(graph: FinishedGraph, own_tables: Path) -> None:
    with (latest("batch_predictions", graph.storage) / "predictions.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    bought = pl.read_csv(own_tables / "interactions.csv", infer_schema=False)
    assert header[:2] == ["user_id", "pred_1"]
    assert [row[0] for row in rows] == bought["customer_id"].unique(maintain_order=True).to_list()
    known = set(pl.read_ndjson(own_tables / "items.jsonl")["sku"])
    listed = {item for row in rows for item in row[1:] if item}
    assert listed <= known
    assert len({item.rstrip("0123456789") for item in listed}) > 2, "ids of several kinds come out"


def test_the_page_says_what_was_understood(graph: FinishedGraph) -> None:
    (event,) = graph.result.get_asset_materialization_events()[:1]
    page = event.materialization.metadata
    assert str(page["verdict"].value).startswith("tables: ")
    records = [record.data for record in page["columns"].records]  # type: ignore[attr-defined] # a table's
    taken = {row["column"]: row["taken for"] for row in records}
    assert taken["customer_id"] == "user"
    assert taken["created_at"] == "time"
    assert taken["Main colour"] == "text"
    catalog = pl.read_parquet(latest("item_catalog", graph.storage) / "frame.parquet")
    assert catalog["item_id"].dtype == pl.String
    assert set(catalog["main_colour"]) == {"red", "green", "blue"}
    assert "; Main colour: " in catalog["text"][0]


def test_new_rows_in_a_folder_of_parts_are_new_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genrec_core.data.archive._REST_SECONDS", 0)
    part = pl.DataFrame({"user": ["a"], "item": ["x"]})
    (tmp_path / "interactions").mkdir()
    part.write_parquet(tmp_path / "interactions" / "1.parquet")
    before = fingerprint(str(tmp_path))
    assert fingerprint(str(tmp_path)) == before is not None
    part.write_parquet(tmp_path / "interactions" / "2.parquet")
    assert fingerprint(str(tmp_path)) != before


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gets_predictions_in_its_own_ids(layout: str, sample_folder: Path, tmp_path: Path) -> None:
    items, histories = load_tables(sample_folder)
    titles = {f"B{item:04d}": title for item, title in items.select("item_id", "title").iter_rows()}
    bought = [
        (f"u{user}", f"B{item:04d}", 1 + place % 5, 1_700_000_000 + place)
        for user, listed in histories.select("user_id", "item_ids").iter_rows()
        for place, item in enumerate(listed)
    ]
    graph = FinishedGraph(tmp_path, write(tmp_path / "shop", LAYOUTS[layout](bought, titles)))
    assert graph.result.success
    with (latest("batch_predictions", graph.storage) / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    assert [row[0] for row in rows] == [f"u{user}" for user in histories["user_id"]]
    assert {item for row in rows for item in row[1:] if item} <= set(titles)
