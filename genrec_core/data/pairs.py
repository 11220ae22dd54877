"""How often items stand near each other in histories."""

import numpy as np

from genrec_core.data.histories import Histories

_CHUNK_PLACES = 1 << 19  # items of histories whose pairs are in memory at once


def pair_counts(
    histories: Histories, n_items: int, window: int, both_ways: bool = True, by_distance: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of different items within ``window`` of each other.

    Args:
        n_items: items of the catalogue.
        window: farthest distance, in items of a history.
        both_ways: count also the older item after the newer one.
        by_distance: whether a pair counts by the inverse of its distance, or as one.

    Returns:
        The pairs as ``first * n_items + second``, int64 [m] ascending, and their counts, float64 [m].
    """
    user = np.repeat(np.arange(len(histories), dtype=np.int32), histories.lengths)
    steps = [distance * way for distance in range(1, window + 1) for way in ((1, -1) if both_ways else (1,))]
    places = histories.rows.argsort(kind="stable")  # all of an item's pairs are counted at once
    ends = np.bincount(histories.rows, minlength=n_items).cumsum()
    parts, first = [(np.zeros(0, np.int64), np.zeros(0))], 0
    while first < len(places):
        last = int(ends[ends.searchsorted(min(first + _CHUNK_PLACES, len(places)))])
        parts.append(_counted(np.sort(places[first:last]), histories.rows, user, n_items, steps, by_distance))
        first = last
    distinct, counts = map(np.concatenate, zip(*parts, strict=True))
    return distinct, counts


def _counted(
    places: np.ndarray, rows: np.ndarray, user: np.ndarray, n_items: int, steps: list[int], by_distance: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs whose first item stands at one of the ascending ``places`` in ``rows``, and their counts."""
    pairs, weights = [], []
    for step in steps:
        near = places[slice(*places.searchsorted([-step, len(rows) - step]))]
        near = near[(user[near] == user[near + step]) & (rows[near] != rows[near + step])]
        pairs.append(rows[near].astype(np.int64) * n_items + rows[near + step])
        weights.append(np.full(len(near), 1 / abs(step) if by_distance else 1.0))
    distinct, place = np.unique(np.concatenate(pairs), return_inverse=True)
    return distinct, np.bincount(place, np.concatenate(weights), minlength=len(distinct))


def order_strength(histories: Histories, n_items: int) -> float:
    """How much more often two neighbours of a history stand elsewhere in the same order than in the other; 1 for none.

    Infinite where pairs come back, but never the other way round.
    """
    rows = histories.rows.astype(np.int64)
    user = np.repeat(np.arange(len(histories)), histories.lengths)
    near = (user[:-1] == user[1:]) & (rows[:-1] != rows[1:])
    pairs, counts = np.unique(rows[:-1][near] * n_items + rows[1:][near], return_counts=True)
    first, second = np.divmod(pairs, n_items)
    reverse = second * n_items + first
    place = pairs.searchsorted(reverse)
    reversed_counts = np.where(pairs.take(place, mode="clip") == reverse, counts.take(place, mode="clip"), 0)
    again, other_way = (counts * (counts - 1.0)).sum(), (counts * reversed_counts).sum()
    return float(again / other_way) if other_way else float("inf") if again else 1.0
