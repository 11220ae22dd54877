"""Finds the items whose keys match a query best without reading every key.

Keys differ in a few directions more than in all others, their principal components (Jolliffe 2002, "Principal Component
Analysis"). So each item has a sketch, the products of its key with these directions. A user's sketch is compared first
with the mean sketch below each first token of a code, then with the sketches below the best of them. Of the items that
match best the whole keys are read.
"""

from typing import NamedTuple

import numpy as np

from genrec_core.errors import GenrecError
from genrec_core.search.beams import Lifted
from genrec_core.search.trie import CodeTrie

LEAST_SCORED, _SCORED_OF_LIST = 4096, 16  # items whose keys are read for a user: at least, and for each of the list
_DIRECTIONS = 64
_READ = 1 / 3  # of the items' sketches
_FITTED = 1 << 16  # keys that the directions are fitted on
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

    def floats(self, rows: np.ndarray) -> np.ndarray:
        """The keys at catalogue rows int [n], float32 [n, width]."""
        return np.asarray(self.steps.take(rows, axis=0) * self.scales.take(rows)[:, None])

    def logits(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Products of queries float32 [..., width] and the keys at catalogue rows int [n], float32 [..., n]."""
        logits: np.ndarray = queries @ self.steps.take(rows, axis=0).astype(np.float32).T
        logits *= self.scales.take(rows)
        return logits

    def all_logits(self, queries: np.ndarray) -> np.ndarray:
        """The same with the keys of all items, a chunk at a time."""
        rows = np.arange(len(self.steps))
        return np.concatenate([self.logits(queries, rows[at : at + _CHUNK]) for at in rows[::_CHUNK]], axis=-1)


class KeySketches(NamedTuple):
    """The products of the item keys with a few directions."""

    directions: np.ndarray  # float32 [width, directions]
    products: np.ndarray  # float32 [directions, n_items], by leaf of the trie

    @classmethod
    def of(cls, keys: RoundedKeys, leaf_row: np.ndarray) -> "KeySketches":
        """Choose the directions in which the keys differ most, and multiply all keys.

        Args:
            leaf_row: :attr:`CodeTrie.leaf_row`.
        """
        n_items, width = keys.steps.shape
        fitted = keys.floats(leaf_row[:: max(1, n_items // _FITTED)])
        fitted -= fitted.mean(axis=0)
        _, vectors = np.linalg.eigh(fitted.T @ fitted)  # ascending
        directions = np.ascontiguousarray(vectors[:, -min(_DIRECTIONS, width) :])
        products = np.empty((directions.shape[1], n_items), dtype=np.float32)
        for first in range(0, n_items, _CHUNK):
            part = slice(first, first + _CHUNK)
            products[:, part] = directions.T @ keys.floats(leaf_row[part]).T
        return cls(directions, products)


class KeyIndex:
    """The keys of the items and their sketches, with the mean sketch below each prefix of depth 1."""

    def __init__(self, trie: CodeTrie, keys: RoundedKeys, sketches: KeySketches | None = None) -> None:
        self.trie, self.keys = trie, keys
        self.sketches = sketches or KeySketches.of(keys, trie.leaf_row)
        self.starts = trie.first_leaf[1].astype(np.int64)
        self.sizes = np.diff(self.starts)
        sums = np.add.reduceat(self.sketches.products, self.starts[:-1], axis=1)
        self.means = sums / self.sizes.astype(np.float32)  # [directions, nodes]

    def best(
        self, query: np.ndarray, wanted: int, prefixes: np.ndarray, counts: np.ndarray, open_: np.ndarray | None
    ) -> np.ndarray:
        """About ``wanted`` open leaves that match a query best by their sketches, int64 ascending.

        Only the sketches below the best prefixes are read, those of ``_READ`` of the items.

        Args:
            query: float32 [width].
            prefixes: added to the logits by the node of depth 1, float32 [nodes].
            counts: open items below these nodes, int64 [nodes].
            open_: which leaves are open, bool [n_items]; None for all.
        """
        sketch = query @ self.sketches.directions
        order = np.argsort(-np.where(counts > 0, sketch @ self.means + prefixes, -np.inf), kind="stable")
        enough = counts.take(order).cumsum().searchsorted(max(wanted, int(_READ * counts.sum()))) + 1
        nodes = np.sort(order[:enough])
        begins, ends = self.starts.take(nodes), self.starts.take(nodes + 1)
        slices = [slice(begin, end) for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
        logits = np.concatenate([sketch @ self.sketches.products[:, part] for part in slices])
        logits += prefixes.take(nodes).repeat(ends - begins)
        if open_ is not None:
            logits[~np.concatenate([open_[part] for part in slices])] = -np.inf
        place = len(logits) - wanted
        least = np.partition(logits, place)[place] if place > 0 else -np.inf
        (found,) = (logits >= max(least, np.finfo(np.float32).min)).nonzero()
        behind = (ends - begins).cumsum()  # where the logits of a node end
        node = behind.searchsorted(found, side="right")
        return np.asarray(found - behind.take(node) + ends.take(node))


class Matches(NamedTuple):
    """What a batch of users asks of the index."""

    key_index: KeyIndex
    queries: np.ndarray  # a query's product with a key is a logit, float32 [batch, width]
    lifted: Lifted | None  # the items with a bonus

    def shortlist(
        self,
        top_k: int,
        prefixes: np.ndarray,
        allowed: np.ndarray | None = None,
        excluded: np.ndarray | None = None,
    ) -> Shortlist:
        """The items that match best, and the lifted ones, without those that a user must not get.

        Args:
            top_k: items of a list.
            prefixes: added to the logits of prefixes by their node of depth 1, float32 [batch, nodes].
            allowed, excluded: as in :func:`~genrec_core.search.generative.beam_search`.
        """
        index, batch = self.key_index, len(self.queries)
        trie, counts = index.trie, index.sizes
        open_ = None if allowed is None else allowed.take(trie.leaf_row)
        if open_ is not None:
            counts = np.add.reduceat(open_, index.starts[:-1], dtype=np.int64)
        raised, bonus = _by_user(self.lifted, trie, batch)
        wanted = np.full(batch, max(LEAST_SCORED, _SCORED_OF_LIST * top_k))
        if excluded is not None:
            wanted += (excluded >= 0).sum(axis=1)  # a long history may hold all that match best
        leaves, logits = [], []
        for user, query in enumerate(self.queries):
            # A user alone, not a batch at once: else a product's last digits would depend on who else is in the batch.
            own = index.best(query, int(wanted[user]), prefixes[user], counts, open_)
            also = raised[user] if open_ is None else raised[user][open_[raised[user]]]
            scored = np.sort(np.concatenate([own, also[_places(own, also) < 0]]), kind="stable")
            if excluded is not None:
                closed = _places(scored, trie.row_leaf.take(excluded[user][excluded[user] >= 0]))
                scored = np.delete(scored, closed[closed >= 0])
            leaves.append(scored)
            logits.append(index.keys.logits(query, trie.leaf_row.take(scored)))
            place = _places(scored, raised[user])
            logits[user][place[place >= 0]] += bonus[user][place >= 0]
        users = np.arange(batch).repeat([len(own) for own in leaves])
        return Shortlist(users, np.concatenate(leaves), np.concatenate(logits))


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
