"""Baselines that need no training. A new one is a file like this one and a line in ``BASELINES``."""

import numpy as np

from genrec_core.data.histories import HistoryBatch
from genrec_core.data.split import HeldOut, popularity_order
from genrec_core.errors import GenrecError
from genrec_core.search.held_out import LISTED_ITEMS, first_unseen, in_history, target_ranks
from genrec_core.search.neighbors import Neighbors
from genrec_core.search.trie import CodeTrie

_POPULAR = 1e-3  # logits of popularity: it orders what no neighbour lifts

_CHUNK_USERS = 1024


def popularity(
    counts: np.ndarray, held_out: HeldOut, depth: int, exclude_seen: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Recommend the ``depth`` most popular items; with ``exclude_seen``, those that the user does not have.

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
        seen = in_history(items, histories, len(counts)) & exclude_seen
        ranks.append(target_ranks(items, held_out.targets[users], depth, seen))
        lists.append(first_unseen(items, seen, min(LISTED_ITEMS, depth)))
    return np.concatenate(ranks), np.concatenate(lists)


BASELINES = {"popularity": popularity}


class NeighborScorer:
    """A ``CodeScorer`` of whole items, with nothing learned: the bonuses of neighbours, and popularity behind them."""

    def __init__(self, neighbors: Neighbors, counts: np.ndarray) -> None:
        self.neighbors, self.popular = neighbors, (_POPULAR * np.log1p(counts)).astype(np.float32)

    def start(self, histories: HistoryBatch) -> "NeighborSession":
        return NeighborSession(self, histories)


class NeighborSession:
    """The scores of one batch; see ``ScorerSession``."""

    def __init__(self, scorer: NeighborScorer, histories: HistoryBatch) -> None:
        self.scorer, self.histories = scorer, histories

    def item_logits(self) -> np.ndarray:
        logits = np.tile(self.scorer.popular, (len(self.histories.lengths), 1))
        self.scorer.neighbors.lift(logits, self.histories.flat())
        return logits

    def matches(self, trie: CodeTrie) -> None:
        """None: see ``ScorerSession``; all items are scored."""

    def lifted(self) -> None:
        """None: see ``ScorerSession``; it matters to codes alone."""

    def first(self) -> np.ndarray:
        raise GenrecError("neighbours generate no codes; rank with dense_weight 1")

    def advance(self, tokens: np.ndarray, parents: np.ndarray, users: np.ndarray) -> np.ndarray:
        return self.first()
