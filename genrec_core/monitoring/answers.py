"""What a file of predictions looks like: how much of the catalogue it shows, wrong entries, and who got worse lists."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from genrec_core.evaluation.metrics import gini
from genrec_core.recommend.predict import PredictionReport
from genrec_core.recommend.prediction_files import is_parquet


@dataclass(frozen=True)
class Exposure:
    """How the places of all lists are shared among the items."""

    places: int  # items in all lists together
    shown: int  # different items among them
    items: int  # items that could be shown
    gini: float  # Gini coefficient of how often each item is shown: 0 if all are shown equally often, near 1 if few are

    @property
    def coverage(self) -> float:
        return self.shown / max(self.items, 1)

    @property
    def reachable_coverage(self) -> float:
        """Share shown of what these places could show: a few lists cannot hold a large catalogue."""
        return self.shown / max(min(self.items, self.places), 1)


class ListedItems(NamedTuple):
    """Entries of all lists together."""

    items: int  # all entries
    unknown: int  # entries that are no known item, or no number
    repeated: int  # entries that their list already holds
    seen: int  # entries that the user's history holds; 0 without histories


def scan_predictions(predictions: Path) -> pl.LazyFrame:
    """A prediction file; cells of a CSV file as text."""
    return pl.scan_parquet(predictions) if is_parquet(predictions) else pl.scan_csv(predictions, infer_schema=False)


def exposure_of(predictions: Path, item_ids: np.ndarray) -> Exposure:
    """Read a prediction file, without holding it in memory; ``item_ids`` can be recommended, int64 [n]."""
    cells = scan_predictions(predictions).select(pl.col("^pred_[0-9]+$").cast(pl.Int64, strict=False))
    listed = cells.unpivot(value_name="item_id").drop_nulls("item_id")
    shown = listed.group_by("item_id").len().collect(engine="streaming")
    places = shown["len"].to_numpy().astype(np.int64)
    known = np.isin(shown["item_id"].to_numpy(), item_ids)
    counts = np.zeros(len(item_ids), np.int64)
    counts[: known.sum()] = places[known]  # the Gini coefficient does not depend on the order of the items
    return Exposure(int(places.sum()), int(known.sum()), len(item_ids), gini(counts))


def miss_shares(report: PredictionReport) -> dict[str, float]:
    """Shares of history entries, users and lines that could not be served fully."""
    users = max(report.users, 1)
    return {
        "unknown_items": report.unknown_items / max(report.history_items, 1),
        "popular_answers": report.empty_histories / users,
        "short_answers": report.short_rows / users,
        "rejected_lines": report.rejected / max(report.users + report.rejected, 1),
    }


def count_listed_items(predictions: Path, known: np.ndarray, histories: pl.DataFrame | None = None) -> ListedItems:
    """Read a prediction file and count its entries; ``known`` item ids are int64 [n]."""
    frame = scan_predictions(predictions).with_row_index("row").collect()
    cells = frame.unpivot(index=["row", "user_id"], value_name="cell").drop_nulls("cell")
    listed = cells.select("row", "user_id", pl.col("cell").cast(pl.Int64, strict=False).fill_null(-1).alias("item_id"))
    unknown = listed.height - int(np.isin(listed["item_id"].to_numpy(), known).sum())
    repeated = listed.height - listed.unique(["row", "item_id"]).height
    seen = 0
    if histories is not None:
        bought = histories.select("user_id", pl.col("item_ids").alias("item_id")).explode("item_id")
        seen = listed.join(bought, on=["user_id", "item_id"], how="semi").height
    return ListedItems(listed.height, unknown, repeated, seen)
