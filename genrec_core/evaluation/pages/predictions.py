"""What a file of predictions recommends, as people can judge it: lists by title, and who is shown how often."""

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
    """The items of an exported model.

    Args:
        item_ids: the data set's ids, int64 [n].
        names: what to call each, its title where it has one.
        departments: what each is, Utf8 [n].
        bought: training interactions of each, int64 [n].
    """

    item_ids: NDArray[np.int64]
    names: Sequence[str]
    departments: pl.Series
    bought: NDArray[np.int64]

    @classmethod
    def of_model(cls, model_dir: Path) -> "Shop":
        """Read a model folder; where it was exported without its catalogue, ids are the names."""
        folder = ModelFolder(model_dir)
        item_ids, bought = folder.item_ids, folder.popularity
        titles: list[str | None] = [None] * len(item_ids)
        categories = titles
        if folder.takes_rules:
            table = ItemTable.load(model_dir, item_ids)
            titles, categories = table.title, table.categories
        names = [title or f"item {item}" for title, item in zip(titles, item_ids.tolist(), strict=True)]
        return cls(item_ids, names, departments(pl.Series(categories, dtype=pl.String)), bought)

    def name(self, item: int) -> str:
        """What to call an item; one that the model does not know is named by its id."""
        (row,) = np.nonzero(self.item_ids == item)
        return self.names[int(row[0])] if len(row) else f"item {item}, unknown"


def lists_by_title(
    shop: Shop, histories: Sequence[tuple[str, Sequence[int]]], predictions: Path, items: int
) -> list[dict[str, str]]:
    """For each user the newest items of the history, and the first ones recommended.

    Args:
        shop: names the items.
        histories: users and their items, oldest first, in the order of the rows of ``predictions``; rows that were not
            served are found by the user.
        predictions: CSV or Parquet, ``user_id,pred_1..pred_K``.
        items: how many of each to name.
    """
    places = [f"pred_{place}" for place in range(1, items + 1)]
    frame = _scanned(predictions)
    wanted = [user for user, _ in histories]
    columns = [name for name in frame.collect_schema().names() if name in places]
    user = pl.col("user_id").cast(pl.String)
    found = frame.filter(user.is_in(wanted)).select(user, *(pl.col(name).cast(pl.Int64) for name in columns)).collect()
    lists = {str(row[0]): [item for item in row[1:] if item is not None] for row in found.iter_rows()}
    return [
        {
            "user": user_id,
            "bought, newest first": "; ".join(shop.name(item) for item in reversed(bought[-items:])),
            "recommended": "; ".join(shop.name(item) for item in lists[user_id]),
        }
        for user_id, bought in histories
        if user_id in lists
    ]


def shown_counts(shop: Shop, predictions: Path, places: int = FIRST_PLACES) -> NDArray[np.int64]:
    """How often each item of ``shop`` is among the first ``places`` of a list, int64 [n]; read in a stream."""
    frame = _scanned(predictions)
    columns = [name for name in frame.collect_schema().names() if name in {f"pred_{at}" for at in range(1, places + 1)}]
    cells = frame.select(pl.col(name).cast(pl.Int64) for name in columns).unpivot(value_name="item_id")
    counts = cells.drop_nulls("item_id").group_by("item_id").len().collect(engine="streaming")
    aligned = pl.DataFrame({"item_id": shop.item_ids}).join(counts, on="item_id", how="left", maintain_order="left")
    return aligned["len"].fill_null(0).to_numpy().astype(np.int64)


def audience_picture(shop: Shop, shown: NDArray[np.int64]) -> bytes:
    """How evenly items are shown, and which departments get the places, beside what was bought.

    Args:
        shop: the items.
        shown: of :func:`shown_counts`.
    """
    figure, (left, right) = new_figure(2, (9.6, 3.6))
    ranks = np.arange(1, len(shown) + 1)
    for counts, color, name in ((shop.bought, GREY, "bought in training"), (shown, MAIN, "recommended")):
        share = np.sort(counts)[::-1] / max(int(counts.sum()), 1)
        left.loglog(ranks[share > 0], share[share > 0], color=color, linewidth=1.8, label=name)
    left.legend(frameon=False, loc="lower left", fontsize=8)
    labelled(
        left,
        f"{np.count_nonzero(shown):,} of {len(shown):,} items are shown",
        "items, the most frequent first",
        "share",
    )
    groups = largest(shop.departments, _DEPARTMENTS)
    counted = pl.DataFrame({"group": groups, "bought": shop.bought, "shown": shown}).group_by("group").sum()
    counted = counted.sort(["bought", "group"])
    at = np.arange(counted.height)
    for column, color, offset in (("bought", GREY, -0.2), ("shown", MAIN, 0.2)):
        right.barh(at + offset, counted[column].to_numpy() / max(int(counted[column].sum()), 1), 0.4, color=color)
    right.set_yticks(at, counted["group"].to_list(), color=INK)
    right.grid(visible=False)
    labelled(right, "Departments", "share of purchases, and of places", "")
    return as_png(figure)


def _scanned(predictions: Path) -> pl.LazyFrame:
    return pl.scan_parquet(predictions) if is_parquet(predictions) else pl.scan_csv(predictions, infer_schema=False)
