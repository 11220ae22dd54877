"""The job that adds the catalogue's new items to the served release, and what goes on from there."""

from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import polars as pl

from genrec_core.bundle.model_folder import ITEM_IDS
from genrec_core.releases.pointer import served_model
from genrec_core.storage.folders import latest
from genrec_dagster.automation import DATA_VERSION, noted_tags

if TYPE_CHECKING:
    from conftest import Place

NEW = [10**6, 10**6 + 1]


def extended(catalog: pl.DataFrame) -> pl.DataFrame:
    """The catalogue with two items more, like its first two."""
    more = catalog.head(2).with_columns(
        pl.Series("item_id", NEW, dtype=catalog.schema["item_id"]), pl.col("text") + " Second edition;"
    )
    return pl.concat([catalog, more])


def receive_new_items(place: "Place", *assets: str) -> None:
    @dg.asset
    def item_catalog() -> pl.DataFrame:
        return extended(pl.read_parquet(latest("item_catalog", place.graph.storage) / "frame.parquet"))

    assert place.materialize("item_catalog", *assets, replacement=item_catalog, checked=False).success


def test_new_items_of_the_catalogue_are_served_without_training(place: "Place") -> None:
    first, noted = place.served, noted_tags(place.instance, dg.AssetKey("served_release"))
    receive_new_items(place, "item_embeddings")
    assert place.run_job("add_items").success
    assert place.served != first
    ids = np.load(served_model(place.storage) / ITEM_IDS)
    assert ids[-2:].tolist() == NEW
    now = noted_tags(place.instance, dg.AssetKey("served_release"))
    assert now[DATA_VERSION] != noted[DATA_VERSION]
    assert {**now, DATA_VERSION: None} == {**noted, DATA_VERSION: None}  # a new release is still seen as a change

    predicted = place.run_job("predict")
    assert predicted.success
    made = predicted.asset_materializations_for_node("batch_predictions")[0].metadata
    assert made["release"].value == place.served

    again = place.run_job("add_items")
    assert again.success
    assert place.served == latest("model_release", place.storage).name  # nothing was left to be added

    added = place.served
    assert place.materialize("served_release").success  # it has no gates of its own, but it is served already
    assert place.served == added
    assert place.run_job("roll_back").success
    assert place.served == first


def test_items_without_a_text_vector_are_not_added(place: "Place") -> None:
    first = place.served
    receive_new_items(place)
    result = place.run_job("add_items")
    assert not result.success
    assert "materialise item_embeddings first" in str(result.failure_data_for_node("add_new_items").error)
    assert place.served == first
