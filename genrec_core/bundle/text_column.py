"""Texts in arrays, which may be mapped from files, instead of an object a text."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Texts:
    """Texts, one after the other."""

    letters: np.ndarray  # UTF-8 of all texts, uint8 [bytes]
    ends: np.ndarray  # where each text ends, int64 [n]

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Texts":
        """From the texts themselves."""
        encoded = [text.encode("utf-8", errors="replace") for text in texts]
        ends = np.fromiter(map(len, encoded), np.int64, len(encoded)).cumsum()
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> str:
        begin = self.ends[number - 1] if number else 0
        return self.letters[begin : self.ends[number]].tobytes().decode()


@dataclass(frozen=True)
class TextColumn:
    """The text of each item; None where an item has none, or an empty one."""

    texts: Texts  # those that differ
    text_of_item: np.ndarray  # int32 [n_items]

    @classmethod
    def of(cls, texts: Iterable[str | None]) -> "TextColumn":
        """From the text of each item."""
        numbers: dict[str, int] = {}
        of_item = [numbers.setdefault(text or "", len(numbers)) for text in texts]
        return cls(Texts.of(numbers), np.array(of_item, dtype=np.int32))

    def __len__(self) -> int:
        return len(self.text_of_item)

    def __getitem__(self, row: int) -> str | None:
        return self.texts[self.text_of_item[row]] or None

    def __iter__(self) -> Iterator[str | None]:
        return map(self.__getitem__, range(len(self)))
