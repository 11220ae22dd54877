"""How often items stand near each other in histories."""

import numpy as np

from genrec_core.data.histories import Histories


def pair_counts(
    histories: Histories, n_items: int, window: int, both_ways: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of different items within ``window`` of each other; a pair counts by the inverse of its distance.

    Args:
        n_items: items of the catalogue.
        window: farthest distance, in items of a history.
        both_ways: count also the older item after the newer one.

    Returns:
        The pairs as ``first * n_items + second``, int64 [m] ascending, and their counts, float64 [m].
    """
    rows = histories.rows.astype(np.int64)
    user = np.repeat(np.arange(len(histories)), histories.lengths)
    pairs, weights = [], []
    for distance in range(1, min(window, len(rows) - 1) + 1):
        near = (user[:-distance] == user[distance:]) & (rows[:-distance] != rows[distance:])
        one, other = rows[:-distance][near], rows[distance:][near]
        ways = [one * n_items + other, other * n_items + one] if both_ways else [one * n_items + other]
        pairs += ways
        weights += [np.full(len(one), 1 / distance)] * len(ways)
    distinct, place = np.unique(np.concatenate([np.zeros(0, np.int64), *pairs]), return_inverse=True)
    counts = np.bincount(place, np.concatenate([np.zeros(0), *weights]), minlength=len(distinct))
    return distinct, counts.astype(np.float64)


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
