"""What people want to know of an item: its title, brand, categories and price; and the search for items by title."""

import re
import unicodedata
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from genrec_core.bundle.item_attributes import ItemTable
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
        title = table.title[row] or title_without(item_id)
        return ItemFacts(item_id, title, table.brand[row] or None, table.categories[row] or None, table.price[row])

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
        return WordIndex([self.of(row).title for row in range(len(self._item_ids))])


class WordIndex:
    """The words of texts, sorted, each with the texts that hold it: a word's beginning is a range of words."""

    def __init__(self, texts: list[str]) -> None:
        texts_of: dict[str, list[int]] = {}
        for number, text in enumerate(texts):
            for word in set(words_of(text)):
                texts_of.setdefault(word, []).append(number)
        self._count, self._words = len(texts), sorted(texts_of)
        lengths = [len(texts_of[word]) for word in self._words]
        self._ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        flat = (number for word in self._words for number in texts_of[word])
        self._texts = np.fromiter(flat, dtype=np.int32, count=int(self._ends[-1]))

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
