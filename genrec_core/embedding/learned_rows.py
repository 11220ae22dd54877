"""The learned vectors that new items take from trained items. NumPy only."""

from collections.abc import Collection

import numpy as np

_NEW_ITEMS_AT_ONCE = 1024


def learned_rows(vectors: np.ndarray, known_items: int, untrained_items: Collection[int]) -> np.ndarray:
    """The catalogue row whose learned vector each item has, int64 [n_items]: its own or a stand-in's.

    The stand-in is the trained item with the most similar text, so a new item is recommended to the users of that item.
    A model that reads no texts has no stand-ins: its new items get the row of unknown items.

    Args:
        vectors: text vectors by catalogue row, float32 [n_items, dim]; no columns where the model reads no texts.
        known_items, untrained_items: see :class:`genrec_core.tiger.model.TigerConfig`.
    """
    rows = np.arange(len(vectors), dtype=np.int64)
    unknown = rows >= known_items
    unknown[list(untrained_items)] = True
    stand_ins = rows[~unknown]
    if not vectors.shape[1] or not len(stand_ins):
        return np.where(unknown, known_items, rows)
    text = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=np.finfo(np.float32).tiny)
    of_trained, new = text[stand_ins].T, rows[unknown]
    for first in range(0, len(new), _NEW_ITEMS_AT_ONCE):
        chunk = new[first : first + _NEW_ITEMS_AT_ONCE]
        rows[chunk] = stand_ins[(text[chunk] @ of_trained).argmax(axis=1)]
    return rows
