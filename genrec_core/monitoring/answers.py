"""What a file of predictions looks like: how much of the catalogue it shows, and which users got worse lists."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from genrec_core.evaluation.metrics import gini
from genrec_core.recommend.predict import PredictionReport
from genrec_core.recommend.prediction_files import is_parquet


@dataclass(frozen=True)
class Exposure:
    """How the places of all lists are shared among the items.

    Args:
        places: items in all lists together.
        shown: different items among them.
        items: items that could be shown.
        gini: Gini coefficient of how often each item is shown: 0 if all are shown equally often, near 1 if a few take
            all places.
    """

    places: int
    shown: int
    items: int
    gini: float

    @property
    def coverage(self) -> float:
        """Share of the catalogue that is shown."""
        return self.shown / max(self.items, 1)

    @property
    def reachable_coverage(self) -> float:
        """Share shown of what these places could show: a few lists cannot hold a large catalogue."""
        return self.shown / max(min(self.items, self.places), 1)


def exposure_of(predictions: Path, item_ids: np.ndarray) -> Exposure:
    """Read a file of predictions, CSV or Parquet, without holding it in memory.

    Args:
        predictions: as :func:`genrec_core.recommend.predict.predict_file` writes it.
        item_ids: items that can be recommended, int64 [n], in any order.
    """
    rows = pl.scan_parquet(predictions) if is_parquet(predictions) else pl.scan_csv(predictions, infer_schema=False)
    cells = rows.select(pl.col("^pred_[0-9]+$").cast(pl.Int64, strict=False)).unpivot(value_name="item_id")
    shown = cells.drop_nulls("item_id").group_by("item_id").len().collect(engine="streaming")
    places = shown["len"].to_numpy().astype(np.int64)
    known = np.isin(shown["item_id"].to_numpy(), item_ids)
    counts = np.zeros(len(item_ids), np.int64)
    counts[: known.sum()] = places[known]  # the Gini coefficient does not depend on the order of the items
    return Exposure(int(places.sum()), int(known.sum()), len(item_ids), gini(counts))


def miss_shares(report: PredictionReport) -> dict[str, float]:
    """Shares of history entries, users and lines that could not be served fully."""
    users, lines = max(report.users, 1), max(report.users + report.rejected, 1)
    return {
        "unknown_items": report.unknown_items / max(report.history_items, 1),
        "popular_answers": report.empty_histories / users,
        "short_answers": report.short_rows / users,
        "rejected_lines": report.rejected / lines,
    }
