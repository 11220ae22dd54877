"""Baselines that need no training. A new one is a file like this one and a line in ``BASELINES``."""

import numpy as np

from genrec_core.data.split import HeldOut, popularity_order
from genrec_core.search.held_out import LISTED_ITEMS, first_unseen, in_history, target_ranks

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
        histories = [held_out.histories.of(int(user)) for user in users]
        first = order[: depth + max(len(history) for history in histories)]
        items = np.broadcast_to(first, (len(users), len(first)))
        seen = in_history(items, histories, len(counts))
        ranks.append(target_ranks(items, held_out.targets[users], depth, seen))
        lists.append(first_unseen(items, seen, min(LISTED_ITEMS, depth)))
    return np.concatenate(ranks), np.concatenate(lists)


BASELINES = {"popularity": popularity}
