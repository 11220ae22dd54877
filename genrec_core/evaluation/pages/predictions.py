"""Tables and plots of a file of predictions: lists by title, and how often items are shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from genrec_core.bundle.item_attributes import ItemTable
from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.evaluation.pages.catalog import departments, largest
from genrec_core.evaluation.pages.plotting import GREY, INK, MAIN, as_png, labelled, new_figure
from genrec_core.recommend.prediction_files import is_parquet

FIRST_PLACES = 10
_DEPARTMENTS = 7


@dataclass(frozen=True)
class Shop:
    """The items of an exported model."""

    item_ids: NDArray[np.int64]  # the data set's ids [n]
    names: Sequence[str]  # the title of each item, or its id if it has none
    departments: pl.Series  # the department of each item, Utf8 [n]
    bought: NDArray[np.int64]  # training interactions of each item [n]

    @classmethod
    def of_model(cls, model_dir: Path) -> "Shop":
        """Read a model folder, with or without the table of its items."""
        folder = ModelFolder(model_dir)
        item_ids = folder.item_ids
        titles: list[str | None] = [None] * len(item_ids)
        categories = titles
        if folder.takes_rules:
            table = ItemTable.load(model_dir, item_ids)
            titles, categories = table.title, table.categories
        names = [title or f"item {item}" for title, item in zip(titles, item_ids.tolist(), strict=True)]
        return cls(item_ids, names, departments(pl.Series(categories, dtype=pl.String)), folder.popularity)

    def name(self, item: int) -> str:
        (row,) = np.nonzero(self.item_ids == item)
        return self.names[int(row[0])] if len(row) else f"item {item}, unknown"


def lists_by_title(
    shop: Shop, histories: Sequence[tuple[str, Sequence[int]]], predictions: Path, items: int
) -> list[dict[str, str]]:
    """For each user with predictions the newest and the first recommended items, ``items`` of each, by name.

    Args:
        histories: users and their items, oldest first.
        predictions: CSV or Parquet, ``user_id,pred_1..pred_K``.
    """
    users = [user for user, _ in histories]
    rows = _first_places(predictions, items).filter(pl.col("user_id").is_in(users)).collect()
    lists = {str(user): [item for item in row if item is not None] for user, *row in rows.iter_rows()}
    return [
        {
            "user": user,
            "bought, newest first": "; ".join(shop.name(item) for item in reversed(bought[-items:])),
            "recommended": "; ".join(shop.name(item) for item in lists[user]),
        }
        for user, bought in histories
        if user in lists
    ]


def shown_counts(shop: Shop, predictions: Path, places: int = FIRST_PLACES) -> NDArray[np.int64]:
    """How often each item of ``shop`` is among the first ``places`` of a list, int64 [n]; read in a stream."""
    cells = _first_places(predictions, places).drop("user_id").unpivot(value_name="item_id").drop_nulls("item_id")
    counts = cells.group_by("item_id").len().collect(engine="streaming")
    aligned = pl.DataFrame({"item_id": shop.item_ids}).join(counts, on="item_id", how="left", maintain_order="left")
    return aligned["len"].fill_null(0).to_numpy().astype(np.int64)


def exposure_picture(shop: Shop, shown: NDArray[np.int64]) -> bytes:
    """How evenly items are shown, by :func:`shown_counts`, and in which departments, beside what was bought."""
    figure, (left, right) = new_figure(2, (9.6, 3.6))
    groups = pl.DataFrame({"group": largest(shop.departments, _DEPARTMENTS), "bought": shop.bought, "shown": shown})
    groups = groups.group_by("group").sum().sort("bought", "group")
    positions = np.arange(groups.height)
    sides = ((shop.bought, "bought", GREY, "bought in training", -0.2), (shown, "shown", MAIN, "recommended", 0.2))
    for counts, column, color, label, offset in sides:
        total = max(int(counts.sum()), 1)
        share = np.sort(counts[counts > 0])[::-1] / total
        left.loglog(np.arange(1, len(share) + 1), share, color=color, linewidth=1.8, label=label)
        right.barh(positions + offset, groups[column].to_numpy() / total, 0.4, color=color)
    left.legend(frameon=False, loc="lower left", fontsize=8)
    title = f"{np.count_nonzero(shown):,} of {len(shown):,} items are shown"
    labelled(left, title, "items, the most frequent first", "share")
    right.set_yticks(positions, groups["group"].to_list(), color=INK)
    right.grid(visible=False)
    labelled(right, "Departments", "share of purchases, and of places", "")
    return as_png(figure)


def _first_places(predictions: Path, places: int) -> pl.LazyFrame:
    """``user_id`` as text, and the items in the first places."""
    frame = pl.scan_parquet(predictions) if is_parquet(predictions) else pl.scan_csv(predictions, infer_schema=False)
    names = {f"pred_{place}" for place in range(1, places + 1)}
    columns = [name for name in frame.collect_schema().names() if name in names]
    return frame.select(pl.col("user_id").cast(pl.String), *(pl.col(name).cast(pl.Int64) for name in columns))
