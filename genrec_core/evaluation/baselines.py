"""What a recommender must beat: the most popular items that a user has not seen."""

import numpy as np

from genrec_core.data.histories import Histories
from genrec_core.data.popularity import popularity_order
from genrec_core.data.split import HeldOut

_CHUNK_USERS = 4096


def popularity_ranks(counts: np.ndarray, held_out: HeldOut, limit: int) -> np.ndarray:
    """0-based popularity rank of each target once the user's history is taken out, int32 [n].

    Args:
        counts: training interactions by item, int64 [n_items].
        held_out: histories and targets.
        limit: ranks from here on count as absent, as in a list of ``limit`` items.

    Returns:
        -1 where the target is in the history itself or beyond ``limit``.
    """
    place = _inverse(popularity_order(counts))
    user, row = _distinct_history(held_out, len(counts))
    ahead = np.bincount(user, place[row] < place[held_out.targets[user]], minlength=len(held_out.targets))
    repeated = np.bincount(user, row == held_out.targets[user], minlength=len(held_out.targets)) > 0
    rank = place[held_out.targets] - ahead.astype(np.int64)
    return np.where(repeated | (rank >= limit), -1, rank).astype(np.int32)


def popular_unseen(counts: np.ndarray, held_out: HeldOut, k: int) -> np.ndarray:
    """The ``k`` most popular items that are not in each user's history, int32 [n, k], -1 where there are fewer."""
    order, users = popularity_order(counts), np.arange(len(held_out.targets))
    chunks = np.split(users, range(_CHUNK_USERS, len(users), _CHUNK_USERS))
    return np.concatenate([_unseen_of_chunk(order, held_out.take(chunk).histories, k) for chunk in chunks])


def exposure(lists: np.ndarray, k: int, n_items: int) -> np.ndarray:
    """How many users have each item among the first ``k`` of their list, int64 [n_items].

    Args:
        lists: rows int32 [n, at least k, or every item], -1 padded.
        k: items of each list that count.
        n_items: items in the catalogue.
    """
    shown = lists[:, :k]
    return np.bincount(shown[shown >= 0], minlength=n_items).astype(np.int64)


def gini(shown: np.ndarray) -> float:
    """Gini coefficient of exposure: 0 where every item is shown as often, near 1 where a few take all.

    Args:
        shown: how often each item is shown, int [n_items].
    """
    if not shown.sum():
        return 0.0
    ascending, n = np.sort(shown).astype(np.float64), len(shown)
    return float(2 * (np.arange(1, n + 1) * ascending).sum() / (n * ascending.sum()) - (n + 1) / n)


def repeated_targets(held_out: HeldOut) -> int:
    """Users whose target is in their own history, so that no list without the history can hold it."""
    users = np.repeat(np.arange(len(held_out.targets)), held_out.histories.lengths)
    return len(np.unique(users[held_out.histories.rows == held_out.targets[users]]))


def _inverse(order: np.ndarray) -> np.ndarray:
    """Position of each item in ``order``, int64 [n_items]."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place


def _distinct_history(held_out: HeldOut, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """User numbers and rows of all history items, an item once a user."""
    users = np.repeat(np.arange(len(held_out.targets)), held_out.histories.lengths)
    keys = np.unique(users * n_items + held_out.histories.rows.astype(np.int64))
    return keys // n_items, keys % n_items


def _unseen_of_chunk(order: np.ndarray, histories: Histories, k: int) -> np.ndarray:
    """The first ``k`` items of ``order`` that each user has not seen, int32 [users, k], -1 where there are fewer."""
    place = _inverse(order)[histories.rows]
    left = np.ones((len(histories), min(k + int(histories.lengths.max(initial=0)), len(order))), dtype=bool)
    user = np.repeat(np.arange(len(histories)), histories.lengths)
    inside = place < left.shape[1]
    left[user[inside], place[inside]] = False
    first = np.argsort(~left, axis=1, kind="stable")[:, :k]
    lists = np.where(np.take_along_axis(left, first, axis=1), order[first], -1)
    return np.pad(lists, ((0, 0), (0, k - lists.shape[1])), constant_values=-1).astype(np.int32)
