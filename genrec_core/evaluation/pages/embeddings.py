"""Item vectors as people can judge them: an item's nearest neighbours by text, and a map of the catalogue."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genrec_core.embedding.item_embeddings import ItemEmbeddings
from genrec_core.evaluation.pages.plotting import GREY, MAIN, PALETTE, as_png, labelled, new_figure

_MAP_ITEMS = 2500  # more dots cover each other


def nearest_items(
    vectors: ItemEmbeddings, names: Sequence[str], shown: int, neighbors: int
) -> list[dict[str, str | float]]:
    """Some items, spread evenly over the catalogue, each with the items whose vectors are nearest by cosine.

    Args:
        vectors: of the whole catalogue.
        names: what to call each item, in catalogue order.
        shown: items to show.
        neighbors: neighbours of each.

    Returns:
        A row a neighbour: ``item``, ``cosine``, ``neighbour``.
    """
    rows: list[dict[str, str | float]] = []
    for item in spread(len(names), shown):
        cosines = vectors.l2norm @ vectors.l2norm[item]  # [n]
        cosines[item] = -np.inf
        order = np.argsort(-cosines, kind="stable")[: min(neighbors, len(names) - 1)]
        rows += [
            {"item": names[item], "cosine": float(cosines[near]), "neighbour": names[near]} for near in order.tolist()
        ]
    return rows


def spread(items: int, count: int) -> list[int]:
    """``count`` row numbers of ``items``, evenly apart, none twice."""
    return [int(row) for row in np.unique(np.linspace(0, max(items - 1, 0), min(count, items)).round())]


def principal_components(vectors: NDArray[np.float32], dims: int) -> tuple[NDArray[np.float64], float]:
    """Rows along the directions in which they differ most.

    Args:
        vectors: float32 [n, dim].
        dims: directions, at most ``dim``.

    Returns:
        float64 [n, dims], and the share of the variance that these directions hold.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    share = float(variances[-dims:].sum() / variances.sum()) if variances.sum() > 0 else 0.0
    found = directions[:, ::-1][:, :dims]
    found *= np.where(found[np.abs(found).argmax(axis=0), np.arange(dims)] < 0, -1.0, 1.0)  # a sign is arbitrary
    return centred @ found, share


def embedding_picture(vectors: ItemEmbeddings, groups: Sequence[str]) -> bytes:
    """The lengths of the raw vectors, and the catalogue seen along its two main directions, a colour a group.

    Args:
        vectors: of the whole catalogue.
        groups: the group of each item, in catalogue order; at most as many as there are colours, the largest first.
    """
    figure, (left, right) = new_figure(2, (9.6, 4.2))
    left.hist(np.linalg.norm(vectors.raw, axis=1), bins=40, color=MAIN)
    labelled(left, "Length of the raw vectors", "L2 norm", "items")
    chosen = np.array(spread(len(groups), _MAP_ITEMS))
    places, share = principal_components(vectors.l2norm[chosen], 2)
    shown = np.array(groups)[chosen]
    for group, color in zip(_by_size(groups), (*PALETTE[:-1], GREY), strict=False):
        of = shown == group
        right.scatter(places[of, 0], places[of, 1], s=4, color=color, alpha=0.6, linewidths=0, label=group)
    right.set_xticks([])
    right.set_yticks([])
    right.grid(visible=False)
    right.spines["bottom"].set_visible(False)
    labelled(right, f"The catalogue by text ({share:.0%} of the variance)", "", "")
    figure.legend(*right.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4, markerscale=3)
    return as_png(figure)


def _by_size(groups: Sequence[str]) -> list[str]:
    names, counts = np.unique(np.array(groups), return_counts=True)
    return [str(name) for name in names[np.argsort(-counts, kind="stable")]]
