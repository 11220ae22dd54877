"""Neighbours: an item of the history raises the logits of items with similar texts, and of its followers.

Source: Khandelwal et al. 2020, "Generalization through Memorization: Nearest Neighbor Language Models", with item texts
as keys. The forms of both bonuses were chosen on validation.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from genrec_core.data.histories import FlatHistories, Histories
from genrec_core.data.pairs import pair_counts
from genrec_core.errors import GenrecError
from genrec_core.search.beams import Lifted, places_by_user
from genrec_core.storage.artifacts import read_array

UNRELATED = 0.2  # cosine of two unrelated texts
DECAY = 0.8  # factor of the bonus for each newer item of the history
LEAST_BONUS = 0.05  # logits; a smaller one changes no list and costs time where histories are long
WINDOW = 5  # items of a history within which an item follows another
NEIGHBORS, NEIGHBOR_BONUS = "neighbors.npy", "neighbor_bonus.npy"
ALL_PAIRS_ITEMS = 20_000  # largest catalogue in which all pairs of texts are compared
_CHUNK_VALUES = 1 << 24  # similarities in memory at once
_CHUNK_ITEMS = 1 << 12  # beyond ALL_PAIRS_ITEMS, items whose candidates are in memory at once
_CELL_ITEMS, _NEAREST_CELLS = 256, 64  # the exact neighbours found grow with both, and so does the time
_CELL_SAMPLE, _CELL_ITERATIONS = 32, 5  # vectors a cell that place its centre


@dataclass(frozen=True)
class Neighbors:
    """The items that each item lifts, and the bonus they get for a user who has just bought it."""

    rows: np.ndarray  # catalogue rows of the neighbours, int32 [n_items, k]
    bonus: np.ndarray  # added to their logits, float32 [n_items, k]

    @classmethod
    def of(
        cls, vectors: np.ndarray, count: int, weight: float, trained: Histories | None = None, follower: float = 0.0
    ) -> "Neighbors":
        """The ``count`` other items with the largest bonus; see :class:`Related`."""
        return Related(vectors, count, trained).neighbors(weight, follower)

    @classmethod
    def load(cls, folder: Path, n_items: int | None = None) -> "Neighbors | None":
        """What :meth:`save` wrote, checked to be of ``n_items`` items; None where the model lifts no neighbours."""
        if not (folder / NEIGHBORS).is_file():
            return None
        rows, bonus = (np.asarray(read_array(folder / name, "r")) for name in (NEIGHBORS, NEIGHBOR_BONUS))
        items = len(rows) if n_items is None else n_items
        if rows.shape != bonus.shape or len(rows) != items or rows.max(initial=0) >= items:
            raise GenrecError(f"{folder}: {NEIGHBORS} does not fit {items} items; build it again")
        return cls(rows, bonus)

    def save(self, folder: Path) -> None:
        """Write two files into a folder that is not whole yet."""
        np.save(folder / NEIGHBORS, self.rows, allow_pickle=False)
        np.save(folder / NEIGHBOR_BONUS, self.bonus, allow_pickle=False)

    def extended(self, vectors: np.ndarray, new: np.ndarray, count: int, weight: float) -> "Neighbors":
        """The neighbours after items with L2-normalised text vectors ``new`` [m, dim] were added; the rest as in `of`.

        An old item keeps its first ``count`` neighbours. Behind them stand the ``count`` nearest of all added items.
        """
        texts = np.concatenate([vectors, new])
        own_rows = np.zeros((len(new), count), dtype=np.int32)
        own_bonus = np.zeros((len(new), count), dtype=np.float32)
        owner, place = np.nonzero(self.bonus[:, count:])
        near = [(owner, self.rows[:, count:][owner, place], self.bonus[:, count:][owner, place])]
        furthest = self.bonus[:, :count].min(axis=1)
        step = max(1, _CHUNK_VALUES // len(texts))
        for first in range(0, len(new), step):
            chunk = slice(first, min(first + step, len(new)))
            similarity = new[chunk] @ texts.T
            worth = _bonus(similarity[:, : len(vectors)], weight)
            item, owner = np.nonzero(worth > furthest)
            near.append((owner, len(vectors) + first + item, worth[item, owner]))
            own_rows[chunk], cosines = _nearest(similarity, len(vectors) + first, count)
            own_bonus[chunk] = _bonus(cosines, weight)
        owner, row, worth = map(np.concatenate, zip(*near, strict=True))
        added = _ragged(owner, row, worth, len(texts), count)
        rows = np.concatenate([self.rows[:, :count], own_rows])
        bonus = np.concatenate([self.bonus[:, :count], own_bonus])
        return Neighbors(np.hstack([rows, added.rows]), np.hstack([bonus, added.bonus]))

    def lifted(self, histories: FlatHistories) -> Lifted:
        """The items with a bonus: the largest that an item of the history gives, where older items give less."""
        items = len(self.rows)
        age = histories.newest.repeat(histories.lengths) - np.arange(len(histories.rows))
        worth = self.bonus.take(histories.rows, axis=0)  # [items of all histories, k]
        worth *= (DECAY**age).astype(np.float32)[:, None]
        user = np.arange(len(histories.lengths)).repeat(histories.lengths)
        keys = self.rows.take(histories.rows, axis=0) + (user * items)[:, None]
        some = worth > LEAST_BONUS
        pairs, place = np.unique(keys[some], return_inverse=True)
        bonus = np.zeros(len(pairs), dtype=np.float32)
        np.maximum.at(bonus, place, worth[some])
        return Lifted(*np.divmod(pairs, items), bonus)

    def lift(self, logits: np.ndarray, histories: FlatHistories) -> None:
        """Add to the logits [batch, n_items] what :meth:`lifted` gives."""
        lifted = self.lifted(histories)
        logits[lifted.user, lifted.row] += lifted.bonus


class Related:
    """What neighbours are chosen from, for any weights of texts and followers.

    Up to ``all_pairs_items`` items, all pairs of texts are compared for each choice. Beyond, each item's nearest texts
    are found once, by :func:`nearest_texts`; then time grows with the items, not with their square.

    Args:
        vectors: L2-normalised text vectors, float32 [n_items, dim]; no columns: only followers count.
        count: neighbours of each item; fewer if the catalogue has fewer.
        trained: histories of the training part, which say what follows an item.
        all_pairs_items: largest catalogue in which all pairs of texts are compared.
    """

    def __init__(
        self, vectors: np.ndarray, count: int, trained: Histories | None = None, all_pairs_items: int = ALL_PAIRS_ITEMS
    ) -> None:
        self._vectors, self._count, self._exact = vectors, min(count, len(vectors) - 1), len(vectors) <= all_pairs_items
        self._pairs, self._follows = np.zeros(0, np.int64), np.zeros(0)
        if trained is not None:
            self._pairs, self._follows = pair_counts(trained, len(vectors), WINDOW, both_ways=False)

    def neighbors(self, weight: float, follower: float) -> Neighbors:
        """The ``count`` other items with the largest bonus.

        Args:
            weight: bonus of a text with cosine 1 over an unrelated text, in logits.
            follower: an item that followed ``c`` times, further away by the inverse of the distance, gets
                ``follower * log(1 + c)`` more.
        """
        items, shape = len(self._vectors), (len(self._vectors), self._count)
        best = Neighbors(np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.float32))
        step = max(1, _CHUNK_VALUES // items) if self._exact else _CHUNK_ITEMS
        for first in range(0, items if self._count else 0, step):
            chunk = slice(first, min(first + step, items))
            its = slice(*self._pairs.searchsorted([chunk.start * items, chunk.stop * items]))
            rows, bonus = (self._of_all if self._exact else self._of_near)(chunk, its, weight, follower)
            best.rows[chunk, : rows.shape[1]], best.bonus[chunk, : rows.shape[1]] = rows, bonus
        return best

    def _of_all(self, chunk: slice, its: slice, weight: float, follower: float) -> tuple[np.ndarray, np.ndarray]:
        texts = self._vectors if weight else self._vectors[:, :0]
        worth = _bonus(texts[chunk] @ texts.T, weight)
        pairs = self._pairs[its] - chunk.start * len(texts)
        worth.reshape(-1)[pairs] += follower * np.log1p(self._follows[its])
        return _nearest(worth, chunk.start, self._count)

    def _of_near(self, chunk: slice, its: slice, weight: float, follower: float) -> tuple[np.ndarray, np.ndarray]:
        """The same of the followers and the nearest texts alone, the best first and padded with 0."""
        pairs, worth = self._pairs[its], follower * np.log1p(self._follows[its])
        if weight:
            near, cosines = (part[chunk] for part in self._nearest_texts)
            keys = near + np.arange(chunk.start, chunk.stop)[:, None] * len(self._vectors)
            pairs = np.concatenate([pairs, keys.reshape(-1)])
            worth = np.concatenate([worth + _bonus(self._cosines[its], weight), _bonus(cosines, weight).reshape(-1)])
        distinct, place = np.unique(pairs, return_index=True)  # of equal ones the first, the follower
        owner, row = np.divmod(distinct, len(self._vectors))
        best = _ragged(owner - chunk.start, row, worth[place], chunk.stop - chunk.start, self._count)
        return best.rows, best.bonus

    @cached_property
    def _nearest_texts(self) -> tuple[np.ndarray, np.ndarray]:
        return nearest_texts(self._vectors, self._count)

    @cached_property
    def _cosines(self) -> np.ndarray:
        """Of an item's text and its follower's, float32 [pairs]."""
        cosines = np.empty(len(self._pairs), dtype=np.float32)
        for first in range(0, len(cosines), _CHUNK_ITEMS):
            part = slice(first, first + _CHUNK_ITEMS)
            texts = (self._vectors[rows] for rows in np.divmod(self._pairs[part], len(self._vectors)))
            cosines[part] = np.einsum("pd,pd->p", *texts)
        return cosines


def nearest_texts(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` nearest other vectors of each, about: rows int32 [n, count] and cosines float32 [n, count].

    The vectors, float32 [n, dim] of length 1, are put into cells of similar ones. A vector is compared with those of
    the cells nearest to its own, where nearly all of its neighbours are; `bench neighbors` measures the share.

    Source: the inverted file of Sivic and Zisserman 2003, "Video Google", searched cell by cell.
    """
    count = count if vectors.shape[1] else 0
    rows = np.zeros((len(vectors), count), dtype=np.int32)
    cosines = np.zeros((len(vectors), count), dtype=np.float32)
    cells = _cells(vectors) if count else []
    centers = np.stack([vectors[cell].mean(axis=0) for cell in cells]) if cells else vectors[:0]
    for own, center in zip(cells, centers, strict=True):
        nearest = np.argsort(-(centers @ center), kind="stable")[:_NEAREST_CELLS]
        others = np.concatenate([own, *(cells[other] for other in nearest if cells[other] is not own)])
        kept = min(count, len(others) - 1)
        place, similar = _nearest(vectors[own] @ vectors[others].T, 0, kept)
        rows[own, :kept], cosines[own, :kept] = others[place], similar
    return rows, cosines


def _cells(vectors: np.ndarray) -> list[np.ndarray]:
    """The rows of similar vectors; a cell has at most twice ``_CELL_ITEMS``, also where many texts are the same."""
    random = np.random.default_rng(0)
    sample = vectors[np.sort(random.permutation(len(vectors))[: _CELL_SAMPLE * (len(vectors) // _CELL_ITEMS + 1)])]
    centers = sample[::_CELL_SAMPLE]
    for _ in range(_CELL_ITERATIONS):
        members = _grouped(_most_similar(sample, centers))
        centers = np.stack([sample[rows].mean(axis=0) for rows in members])
        centers /= np.linalg.norm(centers, axis=1, keepdims=True).clip(min=np.finfo(np.float32).tiny)
    most = 2 * _CELL_ITEMS
    groups = _grouped(_most_similar(vectors, centers))
    return [rows[first : first + most] for rows in groups for first in range(0, len(rows), most)]


def _most_similar(vectors: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Index of the center with the largest product with each vector, int64 [n]."""
    chunks = range(0, len(vectors), _CHUNK_ITEMS)
    return np.concatenate([(vectors[first : first + _CHUNK_ITEMS] @ centers.T).argmax(axis=1) for first in chunks])


def _grouped(groups: np.ndarray) -> list[np.ndarray]:
    """The rows of each group that has some, ascending."""
    rows = groups.argsort(kind="stable")
    return np.split(rows, np.flatnonzero(np.diff(groups[rows])) + 1)


def _nearest(similarity: np.ndarray, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` largest columns of each row, ascending, and their values; row i does not count column first + i."""
    similarity[np.arange(len(similarity)), np.arange(first, first + len(similarity))] = -np.inf
    rows = np.sort(np.argpartition(-similarity, count - 1, axis=1)[:, :count], axis=1)
    return rows, np.take_along_axis(similarity, rows, axis=1)


def _bonus(similarity: np.ndarray, weight: float) -> np.ndarray:
    return np.asarray(weight * (similarity - UNRELATED).clip(min=0), dtype=np.float32)


def _ragged(owner: np.ndarray, row: np.ndarray, worth: np.ndarray, items: int, most: int) -> Neighbors:
    """The ``most`` largest values of each owner as one row, padded with 0."""
    order = np.lexsort((-worth, owner))
    owner, row, worth = owner[order], row[order], worth[order]
    rank, longest = places_by_user(owner, items)
    kept, width = rank < most, min(longest, most)
    rows, bonus = np.zeros((items, width), dtype=np.int32), np.zeros((items, width), dtype=np.float32)
    rows[owner[kept], rank[kept]], bonus[owner[kept], rank[kept]] = row[kept], worth[kept]
    return Neighbors(rows, bonus)
