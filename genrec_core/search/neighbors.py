"""Items whose texts are alike: what a user has bought lifts the items nearest to it in the dense head's ranking.

Source: the nearest-neighbour interpolation of Khandelwal et al. 2020, "Generalization through Memorization: Nearest
Neighbor Language Models", with item texts as the memory's keys; the form of the bonus was found on validation.
"""

from dataclasses import dataclass

import numpy as np

from genrec_core.data.histories import FlatHistories

UNRELATED = 0.2  # cosine of two texts that have nothing to do with each other
DECAY = 0.8  # of the bonus with each newer item of the history
_CHUNK_VALUES = 1 << 24  # similarities held at once


@dataclass(frozen=True)
class TextNeighbors:
    """The nearest items of each item, and by how much they are lifted for a user who has just bought it.

    Args:
        rows: catalogue rows of the neighbours, int32 [n_items, k].
        bonus: added to their logits, float32 [n_items, k].
    """

    rows: np.ndarray
    bonus: np.ndarray

    @classmethod
    def of(cls, vectors: np.ndarray, count: int, weight: float) -> "TextNeighbors":
        """The ``count`` nearest others by cosine; time grows with the square of the catalogue.

        Args:
            vectors: L2-normalised text vectors, float32 [n_items, dim].
            count: neighbours an item; fewer where the catalogue has fewer.
            weight: logits that a text of cosine 1 is worth above an unrelated one.
        """
        items = len(vectors)
        count = min(count, items - 1)
        rows = np.zeros((items, count), dtype=np.int32)
        bonus = np.zeros((items, count), dtype=np.float32)
        step = max(1, _CHUNK_VALUES // items)
        for first in range(0, items if count else 0, step):
            some = slice(first, min(first + step, items))
            similarity = vectors[some] @ vectors.T
            rows[some], bonus[some] = _nearest(similarity, some.start, count)
        return cls(rows, _bonus(bonus, weight))

    def extended(self, vectors: np.ndarray, new: np.ndarray, count: int, weight: float) -> "TextNeighbors":
        """The neighbours once items were added: theirs, and those of them that are near to the items that were there.

        An item keeps its own ``count`` neighbours; of all that were ever added behind them, the ``count`` nearest.

        Args:
            vectors: L2-normalised text vectors of the items so far, float32 [n_items, dim].
            new: those of the new ones, float32 [m, dim].
            count: neighbours an item had at first.
            weight: as at first.
        """
        every = np.concatenate([vectors, new])
        own_rows = np.zeros((len(new), count), dtype=np.int32)
        own_bonus = np.zeros((len(new), count), dtype=np.float32)
        owner, place = np.nonzero(self.bonus[:, count:])
        near = [(owner, self.rows[:, count:][owner, place], self.bonus[:, count:][owner, place])]
        furthest = self.bonus[:, :count].min(axis=1)
        step = max(1, _CHUNK_VALUES // len(every))
        for first in range(0, len(new), step):
            some = slice(first, min(first + step, len(new)))
            similarity = new[some] @ every.T
            worth = _bonus(similarity[:, : len(vectors)], weight)
            item, owner = np.nonzero(worth > furthest)
            near.append((owner, len(vectors) + first + item, worth[item, owner]))
            own_rows[some], found = _nearest(similarity, len(vectors) + first, count)
            own_bonus[some] = _bonus(found, weight)
        owner, row, worth = map(np.concatenate, zip(*near, strict=True))
        added = _ragged(owner, row, worth, len(every), count)
        rows, bonus = (
            np.concatenate([self.rows[:, :count], own_rows]),
            np.concatenate([self.bonus[:, :count], own_bonus]),
        )
        return TextNeighbors(np.hstack([rows, added.rows]), np.hstack([bonus, added.bonus]))

    def lift(self, logits: np.ndarray, histories: FlatHistories) -> None:
        """Add to each item's logit the largest bonus that an item of the history has for it, the newest counting most.

        Args:
            logits: float32 [batch, n_items] by catalogue row, changed in place.
            histories: what the users bought, as the model reads it.
        """
        age = histories.newest.repeat(histories.lengths) - np.arange(len(histories.rows))
        worth = self.bonus.take(histories.rows, axis=0)  # [items, k]
        worth *= (DECAY**age).astype(np.float32)[:, None]
        place = self.rows.take(histories.rows, axis=0)
        if len(logits) > 1:
            user = np.arange(len(logits)).repeat(histories.lengths)
            place = place + (user * logits.shape[1])[:, None]
        lifted = np.zeros(logits.size, dtype=np.float32)
        np.maximum.at(lifted, place.reshape(-1), worth.reshape(-1))
        logits += lifted.reshape(logits.shape)


def _nearest(similarity: np.ndarray, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` largest of each row but itself, ascending, and their similarity; the rows count from ``first``."""
    similarity[np.arange(len(similarity)), np.arange(first, first + len(similarity))] = -np.inf
    rows = np.sort(np.argpartition(-similarity, count - 1, axis=1)[:, :count], axis=1)
    return rows, np.take_along_axis(similarity, rows, axis=1)


def _bonus(similarity: np.ndarray, weight: float) -> np.ndarray:
    return np.asarray(weight * (similarity - UNRELATED).clip(min=0), dtype=np.float32)


def _ragged(owner: np.ndarray, row: np.ndarray, worth: np.ndarray, items: int, most: int) -> TextNeighbors:
    """The ``most`` largest of each owner side by side, [items, as many as one has]; 0 where there are fewer."""
    order = np.lexsort((-worth, owner))
    owner, row, worth = owner[order], row[order], worth[order]
    counts = np.bincount(owner, minlength=items)
    rank = np.arange(len(owner)) - (counts.cumsum() - counts)[owner]
    kept = rank < most
    width = int(counts.clip(max=most).max(initial=0))
    rows, bonus = np.zeros((items, width), dtype=np.int32), np.zeros((items, width), dtype=np.float32)
    rows[owner[kept], rank[kept]], bonus[owner[kept], rank[kept]] = row[kept], worth[kept]
    return TextNeighbors(rows, bonus)
