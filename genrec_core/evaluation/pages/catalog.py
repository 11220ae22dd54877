"""Tables and plots of a catalogue and its histories."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from genrec_core.evaluation.pages.plotting import GREY, INK, MAIN, as_png, labelled, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UNKNOWN, OTHERS = "unknown", "others"
_LONGEST_NAME, _DEPARTMENTS = 30, 8


def field_coverage(catalog: pl.DataFrame) -> list[dict[str, str | int | float]]:
    """For each column: how many items have a value, how many values differ, and the most frequent value."""
    rows: list[dict[str, str | int | float]] = []
    for column in catalog:
        known = column.drop_nulls()
        rows.append(
            {
                "field": column.name,
                "items": len(known),
                "share": len(known) / max(len(column), 1),
                "distinct": known.n_unique(),
                "for example": str(known.mode().sort().first() if len(known) else ""),
            }
        )
    return rows


def departments(categories: pl.Series) -> pl.Series:
    """The level below the root of each item's first category path: B of "A > B > C; ...", A of "A", or "unknown"."""
    path = categories.str.split("; ").list.first().str.split(" > ")
    return path.list.get(1, null_on_oob=True).fill_null(path.list.first()).fill_null(UNKNOWN).rename("department")


def largest(names: pl.Series, count: int) -> pl.Series:
    """``names`` with all but the ``count`` most frequent ones replaced by "others"; ties go by name."""
    by_size = names.value_counts().sort(["count", names.name], descending=[True, False])
    kept = by_size[names.name].head(count).to_list()
    return names.replace_strict(kept, kept, default=OTHERS)


def catalog_picture(catalog: pl.DataFrame) -> bytes:
    """Length of the texts in ``item_catalog``, and items in each of the largest departments."""
    figure, (left, right) = new_figure(2, (9.6, 3.4))
    characters = catalog["text"].str.len_chars().to_numpy()
    left.hist(characters, bins=40, color=MAIN)
    _mark_median(left, characters)
    labelled(left, "Length of the text that stands for an item", "characters", "items")
    names = largest(departments(catalog["categories"]), _DEPARTMENTS)
    counts = names.value_counts().sort(["count", names.name], descending=[False, True])
    shown = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in counts[names.name]]
    bars = right.barh(shown, counts["count"].to_numpy(), color=MAIN)
    right.bar_label(bars, padding=3, fontsize=8, color=INK)
    right.grid(visible=False)
    right.margins(x=0.15)
    labelled(right, "Items by department", "items", "")
    return as_png(figure)


def histories_picture(histories: pl.DataFrame) -> bytes:
    """Length of the histories in ``user_histories``, and how unevenly items are bought."""
    figure, (left, right) = new_figure(2, (9.6, 3.4))
    lengths = histories["item_ids"].list.len().to_numpy()
    left.loglog(*np.unique(lengths, return_counts=True), ".", color=MAIN, markersize=5)
    _mark_median(left, lengths)
    labelled(left, "History length", "items", "users")
    bought = np.sort(interactions_by_item(histories))[::-1]
    right.loglog(np.arange(1, len(bought) + 1), bought, color=MAIN, linewidth=1.8)
    share = bought[: max(1, round(len(bought) / 10))].sum() / max(bought.sum(), 1)
    note = f"the first 10 % of items:\n{share:.0%} of all interactions"
    right.text(0.97, 0.93, note, transform=right.transAxes, ha="right", va="top", fontsize=9, color=INK)
    labelled(right, "Popularity of items", "items, the most bought first", "interactions")
    return as_png(figure)


def interactions_by_item(histories: pl.DataFrame) -> NDArray[np.int64]:
    """How often each item in the histories was bought, int64 [n], in no particular order."""
    counts = histories["item_ids"].explode(empty_as_null=False).value_counts()["count"]
    return counts.to_numpy().astype(np.int64)


def _mark_median(axes: "Axes", values: NDArray[np.integer]) -> None:
    median = float(np.median(values)) if len(values) else 0.0
    axes.axvline(median, color=GREY, linewidth=1.2, linestyle="--")
    place = axes.get_xaxis_transform()
    axes.text(median, 0.97, f" median {median:g}", transform=place, va="top", fontsize=9, color=INK)
