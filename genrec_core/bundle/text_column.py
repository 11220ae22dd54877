"""Texts in two arrays, which may be mapped from files, instead of an object a text."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TextColumn:
    """The text of each item; None where an item has none, or an empty one."""

    letters: np.ndarray  # UTF-8 of all texts, one after the other, uint8 [bytes]
    ends: np.ndarray  # where the text of each item ends, int64 [n_items]

    @classmethod
    def of(cls, texts: Iterable[str | None]) -> "TextColumn":
        """From the text of each item."""
        encoded = [(text or "").encode("utf-8", errors="replace") for text in texts]
        ends = np.fromiter(map(len, encoded), np.int64, len(encoded)).cumsum()
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> str | None:
        begin = self.ends[row - 1] if row else 0
        return self.letters[begin : self.ends[row]].tobytes().decode() or None

    def __iter__(self) -> Iterator[str | None]:
        return map(self.__getitem__, range(len(self)))
