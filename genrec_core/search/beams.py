"""What all searches and scorers share: the interface of a model, the ranked lists, and operations on beams.

The beams of all users stand in one array, ordered by user and then by node or leaf.
"""

from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np

from genrec_core.data.histories import HistoryBatch
from genrec_core.errors import GenrecError
from genrec_core.search.trie import CodeTrie

if TYPE_CHECKING:
    from genrec_core.search.key_index import Matches

PREFIX_FACTOR = 257  # of the hash of a beam's prefix
Arrays = TypeVar("Arrays", bound=tuple[Any, ...])  # a NamedTuple of arrays


class Lifted(NamedTuple):
    """The items that the histories of a batch lift, each once a user, ordered by user and then by row."""

    user: np.ndarray  # int64 [n]
    row: np.ndarray  # of the catalogue, int64 [n]
    bonus: np.ndarray  # added to the item's logit, above 0, float32 [n]


class ScorerSession(Protocol):
    """A model that decodes one batch, level by level.

    Logits are log-probabilities up to a constant for each beam: the search normalises them over the tokens that the
    catalogue has there.
    """

    def first(self) -> np.ndarray:
        """Logits of level 0, float32 [batch, level size], for one beam a user. At most one call, before any other."""
        ...

    def advance(self, tokens: np.ndarray, parents: np.ndarray, users: np.ndarray) -> np.ndarray:
        """Logits of the next level, float32 [beams, level size].

        Args:
            tokens: token of each beam at the level before, int64 [beams].
            parents: for each beam, the index of its parent among the beams of the call before, int64 [beams].
            users: user of each beam, int64 [beams], ascending; a user may have no beam.
        """
        ...

    def item_logits(self) -> np.ndarray:
        """Logits of all items by the dense head, bonuses included, float32 [batch, n_items] by catalogue row."""
        ...

    def matches(self, trie: CodeTrie) -> "Matches | None":
        """What finds the best items where :meth:`item_logits` would score too many; None where it would not."""
        ...

    def lifted(self) -> Lifted | None:
        """The items that the histories lift; the logits of codes are without it. None if the model lifts none."""
        ...


class CodeScorer(Protocol):
    """A model that scores codes."""

    def start(self, histories: HistoryBatch) -> ScorerSession: ...  # each history has at least one item


@dataclass(frozen=True)
class Ranked:
    """The best items of each user."""

    items: np.ndarray  # catalogue rows int32 [batch, k], best first; -1 where a user has fewer items
    scores: np.ndarray  # float32 [batch, k]; minus infinity where a user has fewer items

    @classmethod
    def of(
        cls, trie: CodeTrie, users: np.ndarray, leaves: np.ndarray, scores: np.ndarray, batch: int, top_k: int
    ) -> "Ranked":
        """The best ``top_k`` of the ``leaves`` [n], which ascend for each of the ascending ``users`` [n].

        Of equal ``scores`` [n] the lower leaf comes first.
        """
        order = np.lexsort((-scores, users))
        place, _ = places_by_user(users, batch)  # in the user's list
        (kept,) = (place < top_k).nonzero()
        order, user, place = order.take(kept), users.take(kept), place.take(kept)
        items = np.full((batch, top_k), -1, dtype=np.int32)
        ordered = np.full((batch, top_k), -np.inf, dtype=np.float32)
        items[user, place] = trie.leaf_row.take(leaves.take(order))
        ordered[user, place] = scores.take(order)
        return cls(items, ordered)


def first_log_probs(session: ScorerSession, trie: CodeTrie, batch: int, lifts: np.ndarray | None = None) -> np.ndarray:
    """Log-probabilities of all nodes of depth 1, float32 [batch, nodes], with ``lifts`` of that shape on the logits."""
    if trie.n_items == 1:
        return np.zeros((batch, 1), dtype=np.float32)
    log_probs = np.asarray(session.first().take(trie.tokens[0], axis=1))
    if lifts is not None:
        log_probs = log_probs + lifts
    log_probs -= log_probs.max(axis=1, keepdims=True)
    log_probs -= np.log(np.exp(log_probs).sum(axis=1, keepdims=True))
    require_numbers(log_probs.max(axis=1), 0)
    return log_probs


def children(trie: CodeTrie, level: int, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All children of the nodes [n] of depth ``level``, int64; where each node's begin, and how many, int64 [n]."""
    starts = trie.child_start[level]
    first = starts.take(nodes)
    counts = starts.take(nodes + 1) - first
    begins = counts.cumsum() - counts
    child = (first - begins).repeat(counts)
    child += np.arange(len(child))
    return child, begins, counts


def require_numbers(values: np.ndarray, level: int) -> None:
    """Raise if a value is NaN. Comparisons with NaN are false, so its user would lose all beams without an error."""
    if isnan(np.add.reduce(values)):
        raise GenrecError(f"level {level}: the model's logits are not numbers; train or export it again")


def keep(beams: Arrays, mask: np.ndarray) -> Arrays:
    """The elements that the mask keeps, of arrays of one length."""
    (kept,) = mask.nonzero()
    return beams if len(kept) == len(mask) else type(beams)(*[part.take(kept) for part in beams])


def places_by_user(users: np.ndarray, batch: int) -> tuple[np.ndarray, int]:
    """The place of each element among those of its user, int64 [n], and the most elements of a user."""
    counts = np.bincount(users, minlength=batch)
    return np.arange(len(users)) - (counts.cumsum() - counts).take(users), int(counts.max())


def by_user(values: np.ndarray, users: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """``values`` [n] as float32 [batch, most of a user], padded with minus infinity; their places there, int64 [n]."""
    place, most = places_by_user(users, batch)
    place += users * most
    padded = np.full((batch, most), -np.inf, dtype=np.float32)
    padded.reshape(-1)[place] = values
    return padded, place


def widest(scores: np.ndarray, users: np.ndarray, batch: int, beams: int) -> np.ndarray:
    """Mask of the ``beams`` largest scores of each user, bool [n]; of equal scores the earlier ones are kept."""
    padded, place = by_user(scores, users, batch)
    if padded.shape[1] <= beams:
        return np.ones(len(scores), dtype=bool)
    return largest(padded, beams).take(place)


def largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Mask of the ``k`` largest scores of each row, bool [batch, n]; of equal scores the leftmost are kept."""
    edge = np.partition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k][:, None]
    mask = scores >= edge
    if np.count_nonzero(mask) > k * len(scores):
        above = scores > edge
        tied = mask & ~above
        mask = above | (tied & (tied.cumsum(axis=1) <= k - above.sum(axis=1, keepdims=True)))
    return mask


class BeamAncestry:
    """Follows the beams of a batch of users down the levels, for any scorer.

    Attributes:
        prefix: hash of each beam's prefix, one of ``buckets`` values, int64 [beams]; 0 before the first token.
        ancestors: for each position before the newest token, the index of each beam's ancestor among the beams of that
            position, int64 [beams]. Position 0 is the start of a code and has one beam a user.
        places: the beams of each user, int64 [batch, most beams of a user]; padded with any beam.
        own: index of each beam in ``places`` read flat, int64 [beams].
    """

    def __init__(self, batch: int, buckets: int) -> None:
        self.batch, self.buckets = batch, buckets
        self.prefix = np.zeros(batch, dtype=np.int64)
        self.ancestors: list[np.ndarray] = []

    def descend(self, rows: np.ndarray, parents: np.ndarray, users: np.ndarray) -> None:
        """Go one level down; ``rows`` [beams] of the token embedding, the rest as in :meth:`ScorerSession.advance`."""
        self.prefix = (self.prefix.take(parents) * PREFIX_FACTOR + rows) % self.buckets
        self.ancestors = [above.take(parents) for above in self.ancestors]
        self.ancestors.append(parents)
        place, most = places_by_user(users, self.batch)
        self.own = place + users * most
        self.places = np.zeros((self.batch, most), dtype=np.int64)
        self.places.reshape(-1)[self.own] = np.arange(len(users))
