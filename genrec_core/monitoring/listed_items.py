"""Counts wrong entries in the lists of a prediction file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from genrec_core.recommend.prediction_files import is_parquet


@dataclass(frozen=True)
class ListedItems:
    """Entries of all lists together.

    Args:
        items: all entries.
        unknown: entries that are no known item, or no number.
        repeated: entries that their list already holds.
        seen: entries that the user's history holds; 0 without histories.
    """

    items: int
    unknown: int
    repeated: int
    seen: int


def count_listed_items(predictions: Path, known: np.ndarray, histories: pl.DataFrame | None = None) -> ListedItems:
    """Read a prediction file, CSV or Parquet, and count its entries.

    Args:
        predictions: ``user_id,pred_1..pred_K``.
        known: item ids, int64 [n].
        histories: ``user_id`` and ``item_ids``.
    """
    frame = read_predictions(predictions).with_row_index("row")
    cells = frame.unpivot(index=["row", "user_id"], value_name="cell").drop_nulls("cell")
    listed = cells.select("row", "user_id", pl.col("cell").cast(pl.Int64, strict=False).fill_null(-1).alias("item_id"))
    unknown = listed.height - int(np.isin(listed["item_id"].to_numpy(), known).sum())
    repeated = listed.height - listed.unique(["row", "item_id"]).height
    if histories is None:
        return ListedItems(listed.height, unknown, repeated, seen=0)
    bought = histories.select("user_id", pl.col("item_ids").alias("item_id")).explode("item_id")
    seen = listed.join(bought, on=["user_id", "item_id"], how="semi").height
    return ListedItems(listed.height, unknown, repeated, seen)


def read_predictions(predictions: Path, columns: list[str] | None = None) -> pl.DataFrame:
    """A prediction file; cells of a CSV file as text."""
    if is_parquet(predictions):
        return pl.read_parquet(predictions, columns=columns)
    return pl.read_csv(predictions, columns=columns, infer_schema=False)
