"""What a catalogue and its histories look like: tables and plots for people. Needs polars, and matplotlib for plots."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from genrec_core.evaluation.pages.plotting import GREY, INK, MAIN, as_png, labelled, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UNKNOWN, OTHERS = "unknown", "others"
_LONGEST_NAME = 30


def field_coverage(catalog: pl.DataFrame) -> list[dict[str, str | int | float]]:
    """For each column: how many items have a value, how many values differ, and an example, the most frequent one."""
    rows: list[dict[str, str | int | float]] = []
    for column in catalog:
        known = column.drop_nulls()
        example = known.mode().sort().first() if len(known) else ""
        rows.append(
            {
                "field": column.name,
                "items": len(known),
                "share": len(known) / max(len(column), 1),
                "distinct": known.n_unique(),
                "for example": str(example),
            }
        )
    return rows


def departments(categories: pl.Series) -> pl.Series:
    """The level below the root of each item's first category path ("A > B > C; ..."): B, or A where it is all.

    Args:
        categories: the column of ``item_catalog``.

    Returns:
        Utf8 [n]; "unknown" where an item has no category.
    """
    path = categories.str.split("; ").list.first().str.split(" > ")
    return path.list.get(1, null_on_oob=True).fill_null(path.list.first()).fill_null(UNKNOWN).rename("department")


def largest(names: pl.Series, count: int) -> pl.Series:
    """``names`` with all but the ``count`` most frequent ones replaced by "others"; ties go by name."""
    ranked = names.value_counts().sort(["count", names.name], descending=[True, False])
    kept = ranked[names.name].head(count).to_list()
    return names.replace_strict(kept, kept, default=OTHERS)


def catalog_picture(catalog: pl.DataFrame, departments_shown: int = 8) -> bytes:
    """How long the items' texts are, and what the shop sells.

    Args:
        catalog: ``item_catalog``.
        departments_shown: the largest ones; the others are summed up.
    """
    figure, (left, right) = new_figure(2, (9.6, 3.4))
    characters = catalog["text"].str.len_chars().to_numpy()
    left.hist(characters, bins=40, color=MAIN)
    _mark_median(left, characters)
    labelled(left, "Length of the text that stands for an item", "characters", "items")
    names = largest(departments(catalog["categories"]), departments_shown)
    counts = names.value_counts().sort(["count", names.name], descending=[False, True])
    bars = right.barh([_short(name) for name in counts[names.name]], counts["count"].to_numpy(), color=MAIN)
    right.bar_label(bars, padding=3, fontsize=8, color=INK)
    right.grid(visible=False)
    right.margins(x=0.15)
    labelled(right, "Items by department", "items", "")
    return as_png(figure)


def histories_picture(histories: pl.DataFrame) -> bytes:
    """How long histories are, and how unevenly items are bought.

    Args:
        histories: ``user_histories``.
    """
    figure, (left, right) = new_figure(2, (9.6, 3.4))
    lengths = histories["item_ids"].list.len().to_numpy()
    values, users = np.unique(lengths, return_counts=True)
    left.loglog(values, users, ".", color=MAIN, markersize=5)
    _mark_median(left, lengths)
    labelled(left, "History length", "items", "users")
    bought = np.sort(interactions_by_item(histories))[::-1]
    right.loglog(np.arange(1, len(bought) + 1), bought, color=MAIN, linewidth=1.8)
    right.annotate(
        f"the first 10 % of items:\n{_head_share(bought):.0%} of all interactions",
        (0.97, 0.93),
        xycoords="axes fraction",
        ha="right",
        va="top",
        fontsize=9,
        color=INK,
    )
    labelled(right, "Popularity of items", "items, the most bought first", "interactions")
    return as_png(figure)


def interactions_by_item(histories: pl.DataFrame) -> NDArray[np.int64]:
    """How often each item that was ever bought was bought, int64 [n], in no particular order."""
    counts = histories["item_ids"].explode(empty_as_null=False).value_counts()["count"]
    return counts.to_numpy().astype(np.int64)


def _head_share(descending: NDArray[np.int64], share: float = 0.1) -> float:
    head = max(1, round(len(descending) * share))
    return float(descending[:head].sum() / max(descending.sum(), 1))


def _mark_median(axes: "Axes", values: NDArray[np.integer]) -> None:
    median = float(np.median(values)) if len(values) else 0.0
    axes.axvline(median, color=GREY, linewidth=1.2, linestyle="--")
    axes.annotate(
        f"median {median:g}",
        (median, 0.97),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
        va="top",
        fontsize=9,
        color=INK,
    )


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
