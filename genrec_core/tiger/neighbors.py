"""Items whose texts are alike: what a user has bought lifts the items nearest to it in the dense head's ranking.

Source: the nearest-neighbour interpolation of Khandelwal et al. 2020, "Generalization through Memorization: Nearest
Neighbor Language Models", with item texts as the memory's keys; the form of the bonus was found on validation.
"""

from dataclasses import dataclass

import numpy as np

from genrec_core.data.histories import HistoryBatch

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
            similarity[np.arange(len(similarity)), np.arange(some.start, some.stop)] = -np.inf
            nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
            rows[some] = np.sort(nearest, axis=1)
            bonus[some] = np.take_along_axis(similarity, rows[some].astype(np.int64), axis=1)
        return cls(rows, weight * (bonus - UNRELATED).clip(min=0))

    def lift(self, logits: np.ndarray, histories: HistoryBatch) -> None:
        """Add to each item's logit the largest bonus that an item of the history has for it, the newest counting most.

        Args:
            logits: float32 [batch, n_items] by catalogue row, changed in place.
            histories: what the users bought, as the model reads it.
        """
        rows = histories.rows
        age = histories.lengths[:, None] - 1 - np.arange(rows.shape[1])  # negative on padding
        user, column = np.nonzero(age >= 0)
        item = rows[user, column]
        worth = self.bonus[item] * (DECAY ** age[user, column]).astype(np.float32)[:, None]  # [items, k]
        place = user[:, None] * logits.shape[1] + self.rows[item]
        lifted = np.zeros_like(logits)
        np.maximum.at(lifted.reshape(-1), place.reshape(-1), worth.reshape(-1))
        logits += lifted
