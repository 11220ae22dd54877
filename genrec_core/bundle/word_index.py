"""The search for texts by the beginnings of their words, mapped from files, so that processes share it."""

import re
import unicodedata
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genrec_core.bundle.text_column import Texts
from genrec_core.storage.artifacts import read_array

_WORD = re.compile(r"\w+")
_AFTER_ALL = chr(0x10FFFF)  # no word begins with the last code point: what begins with a prefix stands before it
_FILES = tuple(f"words.{part}.npy" for part in ("letters", "ends", "entries", "texts"))


@dataclass(frozen=True)
class WordIndex:
    """The words of texts, sorted, each with the texts that hold it: a word's beginning is a range of words."""

    words: Texts  # each once
    ends: np.ndarray  # where the texts of each word begin and end among ``texts``, int64 [words + 1]
    texts: np.ndarray  # numbers of texts, int32 [entries]

    @classmethod
    def of(cls, texts: Iterable[str]) -> "WordIndex":
        """Index texts, which are numbered in their order."""
        numbers: dict[str, int] = {}
        entries, lengths = array("i"), array("i")  # the words of all texts, and how many each has
        for text in texts:
            words = set(words_of(text))
            entries.extend(numbers.setdefault(word, len(numbers)) for word in words)
            lengths.append(len(words))
        ordered = sorted(numbers)
        place = np.empty(len(numbers), dtype=np.int32)
        place[[numbers[word] for word in ordered]] = np.arange(len(numbers))
        word = place[np.array(entries)]
        holders = np.arange(len(lengths), dtype=np.int32).repeat(np.array(lengths))[np.argsort(word, kind="stable")]
        ends = np.concatenate([[0], np.bincount(word, minlength=len(numbers)).cumsum()])
        return cls(Texts.of(ordered), ends, holders)

    @classmethod
    def load(cls, folder: Path) -> "WordIndex":
        """Map the index that :meth:`save` wrote."""
        letters, word_ends, ends, texts = (np.asarray(read_array(folder / name, "r")) for name in _FILES)
        return cls(Texts(letters, word_ends), ends, texts)

    def save(self, folder: Path) -> None:
        """Write the index into an existing folder."""
        arrays = (self.words.letters, self.words.ends, self.ends, self.texts)
        for name, values in zip(_FILES, arrays, strict=True):
            np.save(folder / name, values, allow_pickle=False)

    def texts_with(self, beginnings: Sequence[str], n_texts: int) -> np.ndarray:
        """Which texts have a word for each of the beginnings, bool [n_texts]; all where there is no beginning."""
        left = np.ones(n_texts, dtype=bool)
        for beginning in beginnings:
            first, last = self._place(beginning), self._place(beginning + _AFTER_ALL)
            holds = np.zeros(n_texts, dtype=bool)
            holds[self.texts[self.ends[first] : self.ends[last]]] = True
            left &= holds
        return left

    def _place(self, word: str) -> int:
        """Where the first word stands that is not before ``word``."""
        return bisect_left(range(len(self.words)), word, key=self.words.__getitem__)


def words_of(text: str) -> list[str]:
    """The words of a text in the form in which they are compared: without case and without accents."""
    if text.isascii():
        return _WORD.findall(text.lower())
    parts = unicodedata.normalize("NFKD", text.casefold())
    return _WORD.findall("".join(part for part in parts if not unicodedata.combining(part)))
