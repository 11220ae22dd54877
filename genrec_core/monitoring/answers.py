"""What a file of predictions looks like: how much of the catalogue it shows, wrong entries, and who got worse lists."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from genrec_core.data.ids import AnyId
from genrec_core.evaluation.metrics import gini
from genrec_core.recommend.explain import Explanation
from genrec_core.recommend.predict import PredictionReport
from genrec_core.recommend.prediction_files import is_parquet
from genrec_core.recommend.recommender import Recommender
from genrec_core.settings import RankingChoice

_SLIGHT, _MOST_NATS = 0.05, math.log(1000)  # effects below and above which words say so


@dataclass(frozen=True)
class Exposure:
    """How the places of all lists are shared among the items of a model."""

    counts: np.ndarray  # how many lists hold each item, int64 [n_items]

    @property
    def places(self) -> int:
        return int(self.counts.sum())

    @property
    def coverage(self) -> float:
        return float((self.counts > 0).mean())

    @property
    def reachable_coverage(self) -> float:
        """Share shown of what these places could show: a few lists cannot hold a large catalogue."""
        return int((self.counts > 0).sum()) / max(min(len(self.counts), self.places), 1)

    @property
    def gini(self) -> float:
        return gini(self.counts)


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
    """Read a prediction file, without holding it in memory; ``item_ids`` are those of the model, [n_items]."""
    items = pl.DataFrame({"item_id": item_ids})
    cells = scan_predictions(predictions).select(pl.col("^pred_[0-9]+$").cast(items.schema["item_id"], strict=False))
    counts = cells.unpivot(value_name="item_id").group_by("item_id").len().collect(engine="streaming")
    aligned = items.join(counts, on="item_id", how="left", maintain_order="left")
    return Exposure(aligned["len"].fill_null(0).to_numpy().astype(np.int64))


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
    """Read a prediction file and count its entries; ``known`` item ids are int64 or text [n]."""
    items = pl.DataFrame({"item_id": known})
    frame = scan_predictions(predictions).with_row_index("row").collect()
    cells = frame.unpivot(index=["row", "user_id"], value_name="cell").drop_nulls("cell")
    item = pl.col("cell").cast(items.schema["item_id"], strict=False).alias("item_id")
    listed = cells.select("row", "user_id", item)
    unknown = listed.join(items, on="item_id", how="anti").height
    repeated = listed.height - listed.unique(["row", "item_id"]).height
    seen = 0
    if histories is not None:
        bought = histories.select("user_id", pl.col("item_ids").alias("item_id")).explode("item_id")
        bought = bought.cast({"item_id": items.schema["item_id"]}, strict=False)
        seen = listed.join(bought, on=["user_id", "item_id"], how="semi").height
    return ListedItems(listed.height, unknown, repeated, seen)


def lists_with_reasons(
    recommender: Recommender,
    histories: Sequence[tuple[str, Sequence[AnyId]]],
    predictions: Path,
    items: int,
    ranking: RankingChoice = "auto",
    seconds: float = math.inf,
) -> list[dict[str, str]]:
    """For each user with predictions, by title: the newest items, the first recommended ones, and why the first.

    Args:
        recommender: the model that made the predictions.
        histories: users and their items, oldest first.
        predictions: the prediction file.
        items: how many items of the history and of the list are shown.
        ranking: that of the predictions.
        seconds: users whose turn comes later than this get no reason.
    """
    ids: dict[str, AnyId] = {str(item): item for item in recommender.item_ids.tolist()}  # cells of CSV are text
    users, began = [user for user, _ in histories], time.monotonic()
    rows = scan_predictions(predictions).filter(pl.col("user_id").cast(pl.String).is_in(users)).collect()
    lists = {str(user): [ids[str(item)] for item in row[:items] if str(item) in ids] for user, *row in rows.iter_rows()}

    def named(chosen: Sequence[AnyId]) -> str:
        return " · ".join(facts.title for facts in recommender.describe(chosen))

    shown = []
    for user, bought in histories:
        if user in lists:
            row = {"user": user, "newest items": named(bought[-items:][::-1]), "recommended": named(lists[user])}
            if lists[user] and time.monotonic() - began < seconds:
                (explanation,) = recommender.explain(bought, lists[user][:1], ranking=ranking, reasons=1)
                row["why the first"] = why(explanation, named)
            shown.append({**row, "why the first": row.get("why the first", "")})
    return shown


def why(explanation: Explanation, named: Callable[[Sequence[AnyId]], str]) -> str:
    """The item of the history that an explanation names first, and its effect in words."""
    if not explanation.reasons:
        return "no item of the history is known, so the list is the same for all such users"
    reason = explanation.reasons[0]
    if reason.effect < _SLIGHT:
        return "no single item of the history"
    times = math.exp(min(reason.effect, _MOST_NATS))
    more = "more than " if reason.effect > _MOST_NATS else ""
    return f"{named([reason.item_id])}: with it {more}{times:,.{1 if times < 10 else 0}f} times as likely"
