"""Baselines that need no training. A new one is a file like this one and a line in ``BASELINES``."""

import numpy as np

from genrec_core.data.histories import Histories
from genrec_core.data.split import HeldOut, popularity_order
from genrec_core.search.held_out import LISTED_ITEMS, target_ranks

_CHUNK_USERS = 1024


def popularity(counts: np.ndarray, held_out: HeldOut, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Recommend the ``depth`` most popular items that the user has not seen.

    Args:
        counts: training interactions of each item, int64 [n_items].

    Returns:
        0-based rank of each target, int32 [n], -1 if it is not in the list; and the first ``LISTED_ITEMS`` items of
        each list, int32 [n, LISTED_ITEMS or ``depth``], -1 where there are fewer.
    """
    order = popularity_order(counts)
    ranks, lists = [], []
    for users in np.split(np.arange(len(held_out.targets)), range(_CHUNK_USERS, len(held_out.targets), _CHUNK_USERS)):
        chunk = held_out.take(users)
        unseen = _first_unseen(order, chunk.histories, depth)
        ranks.append(target_ranks(unseen, chunk.targets, depth))
        lists.append(unseen[:, :LISTED_ITEMS])
    return np.concatenate(ranks), np.concatenate(lists)


def _first_unseen(order: np.ndarray, histories: Histories, k: int) -> np.ndarray:
    """The first ``k`` items of ``order`` that each user has not seen, int32 [users, k], -1 where there are fewer."""
    place = np.argsort(order)[histories.rows]
    user = np.repeat(np.arange(len(histories)), histories.lengths)
    unseen = np.ones((len(histories), min(k + int(histories.lengths.max(initial=0)), len(order))), dtype=bool)
    inside = place < unseen.shape[1]
    unseen[user[inside], place[inside]] = False
    first = np.argsort(~unseen, axis=1, kind="stable")[:, :k]
    lists = np.where(np.take_along_axis(unseen, first, axis=1), order[first], -1)
    return np.pad(lists, ((0, 0), (0, k - lists.shape[1])), constant_values=-1).astype(np.int32)


BASELINES = {"popularity": popularity}
