"""Tables and plots of the catalogue, its histories, the item vectors and the semantic IDs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from genrec_core.embedding.item_embeddings import ItemEmbeddings
from genrec_core.evaluation.pages.plotting import GREY, GRID, INK, MAIN, PALETTE, as_png, labelled, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UNKNOWN, OTHERS = "unknown", "others"
_LONGEST_NAME, _DEPARTMENTS = 30, 8
_MAP_ITEMS = 2500  # more dots would cover each other


def spread(items: int, count: int) -> list[int]:
    """``count`` of the row numbers 0 to ``items`` - 1, evenly apart, none twice."""
    return [int(row) for row in np.unique(np.linspace(0, max(items - 1, 0), min(count, items)).round())]


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
    """Length of the histories in ``user_histories``, how unevenly items are bought, and, with times, when."""
    timed = "times" in histories.columns
    figure, (left, right, *later) = new_figure(2 + timed, (9.6 + 4.8 * timed, 3.4))
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
    if timed:
        moments = pl.from_epoch(histories["times"].explode(), time_unit="s")
        weeks = moments.dt.truncate("1w").value_counts().sort("times")
        later[0].step(weeks["times"].to_numpy(), weeks["count"].to_numpy(), where="post", color=MAIN, linewidth=1.2)
        later[0].tick_params(axis="x", rotation=30)
        labelled(later[0], "Interactions a week", "", "interactions")
    return as_png(figure)


def length_counts(histories: pl.DataFrame) -> dict[str, int]:
    """How many users have histories of each length: one to ten items alone, then "11 to 20", "21 to 50" and more."""
    lengths = histories["item_ids"].list.len().to_numpy()
    firsts = [*range(1, 11), 11, 21, 51, 101]
    ends = [*firsts[1:], np.inf]
    counts = {
        (str(first) if end - first == 1 else f"{first} or more" if end == np.inf else f"{first} to {end - 1}"): int(
            ((lengths >= first) & (lengths < end)).sum()
        )
        for first, end in zip(firsts, ends, strict=True)
    }
    return {name: count for name, count in counts.items() if count}


def interactions_by_item(histories: pl.DataFrame) -> NDArray[np.int64]:
    """How often each item in the histories was bought, int64 [n], in no particular order."""
    counts = histories["item_ids"].explode(empty_as_null=False).value_counts()["count"]
    return counts.to_numpy().astype(np.int64)


def _mark_median(axes: "Axes", values: NDArray[np.integer]) -> None:
    median = float(np.median(values)) if len(values) else 0.0
    axes.axvline(median, color=GREY, linewidth=1.2, linestyle="--")
    place = axes.get_xaxis_transform()
    axes.text(median, 0.97, f" median {median:g}", transform=place, va="top", fontsize=9, color=INK)


def nearest_items(
    vectors: ItemEmbeddings, names: Sequence[str], shown: int, neighbors: int
) -> list[dict[str, str | float]]:
    """The ``neighbors`` nearest items by cosine of ``shown`` items, one row each; ``names`` are in catalogue order."""
    rows: list[dict[str, str | float]] = []
    for item in spread(len(names), shown):
        cosines = vectors.l2norm @ vectors.l2norm[item]  # [n]
        cosines[item] = -np.inf
        for near in np.argsort(-cosines, kind="stable")[: min(neighbors, len(names) - 1)].tolist():
            rows.append({"item": names[item], "cosine": float(cosines[near]), "neighbour": names[near]})
    return rows


def principal_components(vectors: NDArray[np.float32], dims: int) -> tuple[NDArray[np.float64], float]:
    """Vectors [n, dim] along their main directions, float64 [n, dims], and the share of the variance in these."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    share = float(variances[-dims:].sum() / variances.sum()) if variances.sum() > 0 else 0.0
    return centred @ directions[:, ::-1][:, :dims], share


def embedding_picture(vectors: ItemEmbeddings, groups: Sequence[str]) -> bytes:
    """A map of the catalogue along the two main directions of its vectors.

    Args:
        groups: the group of each item, which gives its colour; at most 8 different ones.
    """
    figure, (axes,) = new_figure(1, (7.2, 5.0))
    chosen = spread(len(groups), _MAP_ITEMS)
    places, share = principal_components(vectors.l2norm[chosen], 2)
    shown = np.array(groups)[chosen]
    for (group, _), color in zip(Counter(groups).most_common(), PALETTE, strict=False):
        x, y = places[shown == group].T
        axes.scatter(x, y, s=4, color=color, alpha=0.6, linewidths=0, label=group)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    labelled(axes, f"The catalogue by text ({share:.0%} of the variance)", "", "")
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4, markerscale=3)
    return as_png(figure)


def codebook_picture(summary: Mapping[str, Any], codes: NDArray[np.int32]) -> bytes:
    """Used centroids of each level, and items of each centroid.

    Args:
        summary: the content of ``summary.json``.
        codes: int32 [n, levels + 1], the suffix last.
    """
    figure, (use, evenness) = new_figure(2, (9.6, 3.4))
    shares = np.array(summary["codebook_use"])
    sizes = np.array(summary["level_sizes"][: len(shares)])
    levels = np.arange(1, len(sizes) + 1)
    use.bar(levels, sizes, color=GRID, width=0.6)
    bars = use.bar(levels, shares * sizes, color=MAIN, width=0.6)
    use.bar_label(bars, [f"{share:.0%}" for share in shares], padding=2, color=INK)
    use.set_xticks(levels)
    use.margins(y=0.15)
    labelled(use, "Codebook in use", "level", "centroids")
    for level, size, color in zip(levels, sizes, PALETTE, strict=False):
        items = np.sort(np.bincount(codes[:, level - 1], minlength=size))[::-1]
        evenness.plot(np.arange(1, size + 1), items, color=color, linewidth=1.8, label=f"level {level}")
    evenness.set_yscale("symlog", linthresh=1)
    evenness.set_ylim(bottom=0)
    evenness.legend(frameon=False, fontsize=8)
    labelled(evenness, "Items a centroid", "centroids, the fullest first", "items")
    return as_png(figure)
