"""Tables and plots of item vectors: nearest neighbours by text, and a map of the catalogue."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genrec_core.embedding.item_embeddings import ItemEmbeddings
from genrec_core.evaluation.pages.plotting import MAIN, PALETTE, as_png, labelled, new_figure

_MAP_ITEMS = 2500  # more dots would cover each other


def nearest_items(
    vectors: ItemEmbeddings, names: Sequence[str], shown: int, neighbors: int
) -> list[dict[str, str | float]]:
    """The ``neighbors`` nearest items by cosine of ``shown`` items that are spread evenly over the catalogue.

    Args:
        vectors: of the whole catalogue.
        names: a name for each item, in catalogue order.

    Returns:
        One row for each neighbour: ``item``, ``cosine``, ``neighbour``.
    """
    rows: list[dict[str, str | float]] = []
    for item in spread(len(names), shown):
        cosines = vectors.l2norm @ vectors.l2norm[item]  # [n]
        cosines[item] = -np.inf
        for near in np.argsort(-cosines, kind="stable")[: min(neighbors, len(names) - 1)].tolist():
            rows.append({"item": names[item], "cosine": float(cosines[near]), "neighbour": names[near]})
    return rows


def spread(items: int, count: int) -> list[int]:
    """``count`` of the row numbers 0 to ``items`` - 1, evenly apart, none twice."""
    return [int(row) for row in np.unique(np.linspace(0, max(items - 1, 0), min(count, items)).round())]


def principal_components(vectors: NDArray[np.float32], dims: int) -> tuple[NDArray[np.float64], float]:
    """Project vectors [n, dim] on the directions in which they differ most.

    Returns:
        float64 [n, dims], and the share of the variance in these directions.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    share = float(variances[-dims:].sum() / variances.sum()) if variances.sum() > 0 else 0.0
    return centred @ directions[:, ::-1][:, :dims], share


def embedding_picture(vectors: ItemEmbeddings, groups: Sequence[str]) -> bytes:
    """Lengths of the raw vectors, and a map of the catalogue along its two main directions, one colour for each group.

    Args:
        vectors: of the whole catalogue.
        groups: the group of each item, in catalogue order; at most 8 different ones.
    """
    figure, (left, right) = new_figure(2, (9.6, 4.2))
    left.hist(np.linalg.norm(vectors.raw, axis=1), bins=40, color=MAIN)
    labelled(left, "Length of the raw vectors", "L2 norm", "items")
    chosen = spread(len(groups), _MAP_ITEMS)
    places, share = principal_components(vectors.l2norm[chosen], 2)
    shown = np.array(groups)[chosen]
    for (group, _), color in zip(Counter(groups).most_common(), PALETTE, strict=False):
        x, y = places[shown == group].T
        right.scatter(x, y, s=4, color=color, alpha=0.6, linewidths=0, label=group)
    right.set_xticks([])
    right.set_yticks([])
    right.grid(visible=False)
    right.spines["bottom"].set_visible(False)
    labelled(right, f"The catalogue by text ({share:.0%} of the variance)", "", "")
    figure.legend(*right.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4, markerscale=3)
    return as_png(figure)
