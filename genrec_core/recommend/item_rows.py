"""Finds the catalogue rows of item ids."""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from genrec_core.data.ids import AnyId, are_text

_HASHED = 1 << 16  # texts that are Python objects at once


class ItemRows:
    """The catalogue row of each item id: a search among sorted integers, which are hashes where ids are text.

    A dictionary of a million texts takes a quarter of a gigabyte in each process; the hashes take 16 MB.

    Args:
        item_ids: int64 or text [n_items], in any order.
    """

    def __init__(self, item_ids: np.ndarray) -> None:
        self._texts = item_ids if are_text(item_ids) else None
        numbers = item_ids if self._texts is None else _hashes_of(item_ids)
        self._order = np.argsort(numbers, kind="stable")
        self._sorted = numbers[self._order]

    def of(self, histories: Sequence[Sequence[AnyId]]) -> np.ndarray:
        """The row of each item of all histories, int64 [items]; -1 for an unknown one."""
        if self._texts is not None:
            return self._text_rows(list(chain.from_iterable(histories)), self._texts)
        items = np.concatenate([np.empty(0, np.int64), *(np.asarray(history, dtype=np.int64) for history in histories)])
        place = self._place(items)
        return np.where(self._sorted.take(place) == items, self._order.take(place), -1)

    def _text_rows(self, items: list[AnyId], texts: np.ndarray) -> np.ndarray:
        """See :meth:`of`. Several texts may have one hash, so the texts themselves are compared."""
        hashes = np.fromiter(map(hash, items), np.int64, len(items))
        rows, place, open_ = np.full(len(items), -1), self._place(hashes), np.arange(len(items))
        while len(open_):
            same = self._sorted.take(place) == hashes.take(open_)
            open_, place = open_[same], place[same]
            found = self._order.take(place)
            equal = [text == items[at] for text, at in zip(texts.take(found).tolist(), open_.tolist(), strict=True)]
            rows[open_[equal]] = found[equal]
            left = ~np.array(equal, dtype=bool) & (place + 1 < len(self._sorted))
            open_, place = open_[left], place[left] + 1
        return rows

    def _place(self, numbers: np.ndarray) -> np.ndarray:
        """The first place among the sorted ones that is not smaller; the last place where all are."""
        return np.minimum(self._sorted.searchsorted(numbers), len(self._sorted) - 1)


def _hashes_of(texts: np.ndarray) -> np.ndarray:
    """Python's hashes of texts, int64 [n]; they hold within one process."""
    some = (texts[first : first + _HASHED].tolist() for first in range(0, len(texts), _HASHED))
    return np.fromiter(map(hash, chain.from_iterable(some)), np.int64, len(texts))
