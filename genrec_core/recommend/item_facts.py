"""What people want to know of an item: its title, brand, categories and price; and the search for items by title."""

import re
import unicodedata
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from genrec_core.bundle.item_table import ItemTable
from genrec_core.data.ids import AnyId

_WORD = re.compile(r"\w+")
_AFTER_ALL = chr(0x10FFFF)  # no word begins with the last code point: what begins with a prefix stands before it


@dataclass(frozen=True)
class ItemFacts:
    """An item as people see it; None where the catalogue does not say."""

    item_id: AnyId
    title: str  # "item ID" where the catalogue has no title
    brand: str | None = None
    categories: str | None = None  # names from the widest to the narrowest, such as "Beauty > Nails; Gifts > Sets"
    price: float | None = None


class FactsByRow:
    """The facts of all items by catalogue row.

    Args:
        item_ids: int64 or text [n_items].
        table: the catalogue's columns; None for a model without a catalogue.
        popular_rows: catalogue rows from most to least popular, int64 [n_items].
    """

    def __init__(self, item_ids: np.ndarray, table: ItemTable | None, popular_rows: np.ndarray) -> None:
        self._item_ids, self._table, self._popular_rows = item_ids, table, popular_rows

    def of(self, row: int) -> ItemFacts:
        """The facts of one row."""
        item_id, table = self._item_ids[row].item(), self._table
        if table is None:
            return ItemFacts(item_id, title_without(item_id))
        title = table.value("title", row) or title_without(item_id)
        return ItemFacts(item_id, title, *(table.value(name, row) for name in ("brand", "categories", "price")))

    def find(self, query: str, k: int, own: int, allowed: np.ndarray | None) -> np.ndarray:
        """Catalogue rows of the best ``k`` items for a query, int64 [at most k].

        Args:
            own: the row of the item whose id the query is, which comes first; -1 for none.
            allowed: rows that may come out, bool [n_items]; None for all.
        """
        words, matches = words_of(query), np.zeros(len(self._item_ids), dtype=bool)
        if words or not query.strip():
            matches = self._words.titles_with(words)
        if own >= 0:
            matches[own] = True
        if allowed is not None:
            matches &= allowed
        rows = self._popular_rows[matches[self._popular_rows]]
        if own >= 0 and matches[own]:
            rows = np.concatenate([[own], rows[rows != own]])
        return np.asarray(rows[:k])

    @cached_property
    def _words(self) -> "WordIndex":
        return WordIndex(self.of(row).title for row in range(len(self._item_ids)))


class WordIndex:
    """The words of texts, sorted, each with the texts that hold it: a word's beginning is a range of words."""

    def __init__(self, texts: Iterable[str]) -> None:
        numbers: dict[str, int] = {}
        entries, lengths = array("i"), array("i")  # the words of all texts, and how many each has
        for text in texts:
            words = set(words_of(text))
            entries.extend(numbers.setdefault(word, len(numbers)) for word in words)
            lengths.append(len(words))
        self._count, self._words = len(lengths), sorted(numbers)
        place = np.empty(len(numbers), dtype=np.int32)
        place[[numbers[word] for word in self._words]] = np.arange(len(numbers))
        word = place[np.array(entries)]
        self._texts = np.arange(self._count, dtype=np.int32).repeat(np.array(lengths))[np.argsort(word, kind="stable")]
        self._ends = np.concatenate([[0], np.bincount(word, minlength=len(numbers)).cumsum()])

    def titles_with(self, beginnings: list[str]) -> np.ndarray:
        """Which texts have a word for each of the beginnings, bool [texts]; all where there is no beginning."""
        left = np.ones(self._count, dtype=bool)
        for beginning in beginnings:
            first, last = bisect_left(self._words, beginning), bisect_left(self._words, beginning + _AFTER_ALL)
            holds = np.zeros(self._count, dtype=bool)
            holds[self._texts[self._ends[first] : self._ends[last]]] = True
            left &= holds
        return left


def title_without(item_id: AnyId) -> str:
    """What stands for the title of an item that has none."""
    return f"item {item_id}"


def words_of(text: str) -> list[str]:
    """The words of a text in the form in which they are compared: without case and without accents."""
    if text.isascii():
        return _WORD.findall(text.lower())
    parts = unicodedata.normalize("NFKD", text.casefold())
    return _WORD.findall("".join(part for part in parts if not unicodedata.combining(part)))
