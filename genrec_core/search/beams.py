"""What the searches have in common: the model that they ask, the lists that they give, and steps on beams.

The beams of all users stand one behind the other, by user and then by node or leaf.
"""

from dataclasses import dataclass
from math import isnan
from typing import Any, Protocol, TypeVar

import numpy as np

from genrec_core.data.histories import HistoryBatch
from genrec_core.errors import GenrecError
from genrec_core.search.trie import CodeTrie

Arrays = TypeVar("Arrays", bound=tuple[Any, ...])  # a NamedTuple of arrays


class ScorerSession(Protocol):
    """The decoding of one batch, level by level."""

    def first(self) -> np.ndarray:
        """Logits of level 0, float32 [batch, level size], which belong to one beam a user; asked for first, or never.

        All logits are log-probabilities up to a constant a beam, for the search renormalises them over the tokens that
        the catalogue has there.
        """
        ...

    def advance(self, tokens: np.ndarray, parents: np.ndarray, users: np.ndarray) -> np.ndarray:
        """Score the next level.

        Args:
            tokens: chosen at the level before, int64 [beams].
            parents: which of the beams of the call before each comes from, int64 [beams].
            users: whose each is, int64 [beams], ascending; a user may have none.

        Returns:
            Logits over the level's vocabulary, float32 [beams, level size].
        """
        ...

    def item_logits(self) -> np.ndarray:
        """Logits of all items by the dense head, float32 [batch, n_items] by catalogue row."""
        ...


class CodeScorer(Protocol):
    """A model that scores codes."""

    def start(self, histories: HistoryBatch) -> ScorerSession:
        """Read the histories of a batch, each of one item at least."""
        ...


@dataclass(frozen=True)
class Ranked:
    """Items by score.

    Args:
        items: catalogue rows int32 [batch, k], best first, -1 where a user has fewer.
        scores: float32 [batch, k], minus infinity there.
    """

    items: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(
        cls, trie: CodeTrie, users: np.ndarray, leaves: np.ndarray, scores: np.ndarray, batch: int, top_k: int
    ) -> "Ranked":
        """The best ``top_k`` leaves of each user, the lower one first among equals.

        Args:
            trie: the catalogue.
            users: int64 [n], ascending.
            leaves: int64 [n], ascending for each user.
            scores: float32 [n].
            batch: users.
            top_k: items wanted.
        """
        best = np.lexsort((-scores, users)) if batch > 1 else (-scores).argsort(kind="stable")[:top_k]
        user = users.take(best)
        rank = np.arange(len(user))
        if batch > 1:
            counts = np.bincount(user, minlength=batch)
            rank -= (counts.cumsum() - counts).take(user)
            (kept,) = (rank < top_k).nonzero()
            user, rank, best = user.take(kept), rank.take(kept), best.take(kept)
        items = np.full((batch, top_k), -1, dtype=np.int32)
        ordered = np.full((batch, top_k), -np.inf, dtype=np.float32)
        items[user, rank] = trie.leaf_row.take(leaves.take(best))
        ordered[user, rank] = scores.take(best)
        return cls(items, ordered)


def first_log_probs(session: ScorerSession, trie: CodeTrie, batch: int) -> np.ndarray:
    """Log-probabilities of all nodes of depth 1, float32 [batch, nodes]."""
    if trie.n_items == 1:
        return np.zeros((batch, 1), dtype=np.float32)
    log_probs = np.asarray(session.first().take(trie.tokens[0], axis=1))
    log_probs -= log_probs.max(axis=1, keepdims=True)
    log_probs -= np.log(np.exp(log_probs).sum(axis=1, keepdims=True))
    require_numbers(log_probs.max(axis=1), 0)
    return log_probs


def children(trie: CodeTrie, level: int, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All children of some nodes.

    Args:
        trie: the catalogue.
        level: depth of the nodes.
        nodes: int64 [n].

    Returns:
        Nodes of the next depth, int64 [children]; where those of each node begin, and how many it has, int64 [n].
    """
    starts = trie.child_start[level]
    first = starts.take(nodes)
    counts = starts.take(nodes + 1) - first
    ends = counts.cumsum()
    begins = ends - counts
    child = (first - begins).repeat(counts)
    child += np.arange(len(child))
    return child, begins, counts


def require_numbers(found: np.ndarray, level: int) -> None:
    """Refuse a NaN, which compares with nothing, so that its user would silently lose every beam."""
    if isnan(np.add.reduce(found)):
        raise GenrecError(f"level {level}: the model's logits are not numbers; train or export it again")


def keep(beams: Arrays, mask: np.ndarray) -> Arrays:
    """Those that a mask keeps, of arrays of one length."""
    (kept,) = mask.nonzero()
    return beams if len(kept) == len(mask) else type(beams)(*[part.take(kept) for part in beams])


def largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Mask of the ``k`` largest of each row, bool [batch, n]; of equal ones at the edge the leftmost."""
    edge = np.partition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k][:, None]
    found = scores >= edge
    if np.count_nonzero(found) > k * len(scores):
        above = scores > edge
        level = found & ~above
        found = above | (level & (level.cumsum(axis=1) <= k - above.sum(axis=1, keepdims=True)))
    return found
