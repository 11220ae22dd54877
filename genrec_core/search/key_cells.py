"""Finds the items whose keys match a query best without scoring every item: the trie is the index.

Items below a prefix have keys alike. So the mean keys of the prefixes are scored first, and then the items below the
best of them. Source of searching a few cells of many: Jégou, Douze & Schmid 2011, "Product Quantization for Nearest
Neighbor Search", whose inverted file has cells of its own; here they are the semantic IDs'.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from genrec_core.errors import GenrecError
from genrec_core.search.beams import Lifted
from genrec_core.search.trie import CodeTrie

LEAST_SCORED, _SCORED_OF_LIST = 4096, 16  # items scored for a user: at least, and for each item of the list
_SPREAD = 32  # at the depths before the last, prefixes are kept with so many times these items below them
_CELL_ITEMS = 8  # items below a prefix, on average, that make its mean key worth its memory and its time
_CHUNK = 1 << 16  # keys in float32 at once
_MOST_STEPS = 32_767  # of a key's largest number


class Shortlist(NamedTuple):
    """The scored items of each user, ordered by user and then by leaf."""

    user: np.ndarray  # int64 [n]
    leaf: np.ndarray  # int64 [n]
    logit: np.ndarray  # float32 [n], bonuses included


class RoundedKeys(NamedTuple):
    """Item keys in half the memory. Whole numbers become float32 faster than float16 does."""

    steps: np.ndarray  # int16 [n_items, width] by catalogue row
    scales: np.ndarray  # the length of an item's steps, float32 [n_items]

    @classmethod
    def of(cls, keys: np.ndarray) -> "RoundedKeys":
        """Round keys float32 [n_items, width]. Raises ``GenrecError`` for keys that are not numbers."""
        scales = np.abs(keys).max(axis=1) / _MOST_STEPS
        if not np.isfinite(scales).all():
            raise GenrecError("keys of the dense head are not numbers; train the model again")
        scales = np.where(scales > 0, scales, 1).astype(np.float32)
        return cls(np.rint(keys / scales[:, None]).astype(np.int16), scales)

    def logits(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Products of queries float32 [..., width] and the keys at catalogue rows int [n], float32 [..., n]."""
        logits: np.ndarray = queries @ self.steps.take(rows, axis=0).astype(np.float32).T
        logits *= self.scales.take(rows)
        return logits

    def all_logits(self, queries: np.ndarray) -> np.ndarray:
        """The same with the keys of all items, a chunk at a time."""
        rows = np.arange(len(self.steps))
        return np.concatenate([self.logits(queries, rows[at : at + _CHUNK]) for at in rows[::_CHUNK]], axis=-1)


class KeyCells:
    """The keys of the items, and the mean keys of the prefixes of the first depths."""

    def __init__(self, trie: CodeTrie, keys: RoundedKeys) -> None:
        self.trie, self.keys = trie, keys
        wide = [depth for depth in range(1, trie.depth) if trie.nodes(depth) * _CELL_ITEMS <= trie.n_items]
        self.starts = [trie.first_leaf[depth].astype(np.int64) for depth in wide or [1]]
        self.sizes = [np.diff(starts) for starts in self.starts]
        self.means = self._means()
        self.above = [trie.leaf_node[1].take(starts[:-1]) for starts in self.starts]  # the node of depth 1

    def _means(self) -> list[np.ndarray]:
        """The mean key below each node of each depth, float32 [nodes, width]."""
        sums = self._sums(self.starts[-1])
        parts = [sums] + [
            np.add.reduceat(sums, self.starts[-1].searchsorted(starts[:-1]), axis=0) for starts in self.starts[-2::-1]
        ]
        return [part / sizes[:, None].astype(np.float32) for part, sizes in zip(parts[::-1], self.sizes, strict=True)]

    def _sums(self, starts: np.ndarray) -> np.ndarray:
        """The sum of the keys below each node of a depth, float32 [nodes, width], from a chunk of keys at a time."""
        sums = np.empty((len(starts) - 1, self.keys.steps.shape[1]), dtype=np.float32)
        first = 0
        while first < len(sums):
            last = max(first + 1, int(starts.searchsorted(starts[first] + _CHUNK, side="right")) - 1)
            rows = self.trie.leaf_row[starts[first] : starts[last]]
            keys = self.keys.steps.take(rows, axis=0) * self.keys.scales.take(rows)[:, None]
            sums[first:last] = np.add.reduceat(keys, starts[first:last] - starts[first], axis=0)
            first = last
        return sums

    def best(self, query: np.ndarray, wanted: int, prefixes: np.ndarray, open_: list[np.ndarray]) -> np.ndarray:
        """The nodes of the last depth that match a query best, int64 ascending, with ``wanted`` open items below them.

        Args:
            query: float32 [width].
            prefixes: added to the logits by the node of depth 1, float32 [nodes].
            open_: the open items below each node, for each depth.
        """
        nodes = np.arange(len(self.means[0]))
        scores = self.means[0] @ query
        for depth, (means, counts, above) in enumerate(zip(self.means, open_, self.above, strict=True)):
            if depth:
                children = self.trie.child_start[depth]
                begins, ends = children.take(nodes), children.take(nodes + 1)
                parts = [means[begin:end] @ query for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
                scores, nodes = np.concatenate(parts), ranges(begins, ends)
            scores = scores + prefixes.take(above.take(nodes))
            kept = wanted if depth + 1 == len(self.means) else wanted * _SPREAD
            nodes = np.sort(nodes.take(_covering(scores, counts.take(nodes), kept)))
        return nodes


def ranges(begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """All numbers from each beginning to before its end, int64."""
    sizes = ends - begins
    return np.asarray(np.arange(sizes.sum()) + (begins - (sizes.cumsum() - sizes)).repeat(sizes))


def _covering(scores: np.ndarray, counts: np.ndarray, wanted: int) -> np.ndarray:
    """The places of the highest ``scores`` whose ``counts`` reach ``wanted`` together, or of all."""
    scores = np.where(counts > 0, scores, -np.inf)
    few = min(len(scores), 2 * int(wanted / max(counts.mean(), 1e-9)) + 1)
    best = np.argpartition(-scores, few - 1)[:few]
    best = best[np.argsort(-scores[best], kind="stable")]
    return best[: int(counts[best].cumsum().searchsorted(wanted)) + 1]


class Matches(NamedTuple):
    """What a batch of users asks of the cells."""

    cells: KeyCells
    queries: np.ndarray  # a query's product with a key is a logit, float32 [batch, width]
    lifted: Lifted | None  # the items with a bonus

    def shortlist(
        self,
        top_k: int,
        prefixes: np.ndarray,
        allowed: np.ndarray | None = None,
        excluded: np.ndarray | None = None,
    ) -> Shortlist:
        """The items below the prefixes that match best, and the lifted ones, without those that a user must not get.

        Args:
            top_k: items of a list.
            prefixes: added to the logits of prefixes by their node of depth 1, float32 [batch, nodes].
            allowed, excluded: as in :func:`~genrec_core.search.generative.beam_search`.
        """
        trie, batch = self.cells.trie, len(self.queries)
        open_ = None if allowed is None else allowed.take(trie.leaf_row)
        raised, bonus = _by_user(self.lifted, trie, batch)
        wanted = np.full(batch, max(LEAST_SCORED, _SCORED_OF_LIST * top_k))
        if excluded is not None:
            wanted += (excluded >= 0).sum(axis=1)  # a long history may hold all that match best
        leaves, logits = [], []
        for user, own in enumerate(self._leaves(wanted, prefixes, open_)):
            also = raised[user] if open_ is None else raised[user][open_[raised[user]]]
            scored = np.sort(np.concatenate([own, also[_places(own, also) < 0]]), kind="stable")
            if excluded is not None:
                closed = _places(scored, trie.row_leaf.take(excluded[user][excluded[user] >= 0]))
                scored = np.delete(scored, closed[closed >= 0])
            leaves.append(scored)
            logits.append(self.cells.keys.logits(self.queries[user], trie.leaf_row.take(scored)))
            place = _places(scored, raised[user])
            logits[user][place[place >= 0]] += bonus[user][place >= 0]
        users = np.arange(batch).repeat([len(own) for own in leaves])
        return Shortlist(users, np.concatenate(leaves), np.concatenate(logits))

    def _leaves(self, wanted: np.ndarray, prefixes: np.ndarray, open_: np.ndarray | None) -> Iterator[np.ndarray]:
        """For each user ascending leaves, about ``wanted`` int [batch] of those that are open, bool [n_items]."""
        cells = self.cells
        if open_ is None:
            counts = cells.sizes
        else:
            before = np.concatenate([[0], open_.cumsum()])
            if before[-1] <= wanted.min():
                yield from [np.flatnonzero(open_)] * len(self.queries)
                return
            counts = [np.diff(before.take(starts)) for starts in cells.starts]
        for query, own, scored in zip(self.queries, prefixes, wanted.tolist(), strict=True):
            nodes = cells.best(query, scored, own, counts)
            leaves = ranges(cells.starts[-1].take(nodes), cells.starts[-1].take(nodes + 1))
            yield leaves if open_ is None else leaves[open_[leaves]]


def _places(ascending: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Where each value stands among ``ascending`` ones, int64; -1 where it does not."""
    place = ascending.searchsorted(values)
    there = ascending.take(place, mode="clip") == values if len(ascending) else np.zeros(len(values), dtype=bool)
    return np.where(there, place, -1)


def _by_user(lifted: Lifted | None, trie: CodeTrie, batch: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The lifted leaves of each user, and their bonuses."""
    if lifted is None:
        return [np.zeros(0, np.int64)] * batch, [np.zeros(0, np.float32)] * batch
    ends = lifted.user.searchsorted(np.arange(1, batch))
    return np.split(trie.row_leaf.take(lifted.row).astype(np.int64), ends), np.split(lifted.bonus, ends)
