"""Neighbours: an item of the history raises the logits of items with similar texts, and of its followers.

Source: Khandelwal et al. 2020, "Generalization through Memorization: Nearest Neighbor Language Models", with item texts
as keys. The forms of both bonuses were chosen on validation.
"""

from dataclasses import dataclass
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
_CHUNK_VALUES = 1 << 24  # similarities in memory at once


@dataclass(frozen=True)
class Neighbors:
    """The items that each item lifts, and the bonus they get for a user who has just bought it."""

    rows: np.ndarray  # catalogue rows of the neighbours, int32 [n_items, k]
    bonus: np.ndarray  # added to their logits, float32 [n_items, k]

    @classmethod
    def of(
        cls, vectors: np.ndarray, count: int, weight: float, trained: Histories | None = None, follower: float = 0.0
    ) -> "Neighbors":
        """The ``count`` other items with the largest bonus; time grows with the square of the catalogue.

        Args:
            vectors: L2-normalised text vectors, float32 [n_items, dim].
            count: neighbours of each item; fewer if the catalogue has fewer.
            weight: bonus of a text with cosine 1 over an unrelated text, in logits.
            trained: histories of the training part.
            follower: an item that followed ``c`` times in ``trained``, further away by the inverse of the distance,
                gets ``follower * log(1 + c)`` more.
        """
        items = len(vectors)
        count = min(count, items - 1)
        rows = np.zeros((items, count), dtype=np.int32)
        bonus = np.zeros((items, count), dtype=np.float32)
        pairs, follows = np.zeros(0, np.int64), np.zeros(0)
        if trained is not None and follower:
            pairs, follows = pair_counts(trained, items, WINDOW, both_ways=False)
        step = max(1, _CHUNK_VALUES // items)
        for first in range(0, items if count else 0, step):
            chunk = slice(first, min(first + step, items))
            worth = _bonus(vectors[chunk] @ vectors.T, weight)
            its = slice(*pairs.searchsorted([chunk.start * items, chunk.stop * items]))
            worth.reshape(-1)[pairs[its] - chunk.start * items] += follower * np.log1p(follows[its])
            rows[chunk], bonus[chunk] = _nearest(worth, chunk.start, count)
        return cls(rows, bonus)

    @classmethod
    def load(cls, folder: Path, n_items: int | None = None) -> "Neighbors | None":
        """What :meth:`save` wrote, checked to be of ``n_items`` items; None where the model lifts no neighbours."""
        if not (folder / NEIGHBORS).is_file():
            return None
        rows, bonus = read_array(folder / NEIGHBORS), read_array(folder / NEIGHBOR_BONUS)
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
