"""What people want to know of an item: its title, brand, categories and price; and the search for items by title."""

from dataclasses import dataclass

import numpy as np

from genrec_core.bundle.item_table import ItemTable
from genrec_core.bundle.word_index import words_of
from genrec_core.data.ids import AnyId


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
        table: the catalogue's columns; without any value for a model without a catalogue.
        popular_rows: catalogue rows from most to least popular, int64 [n_items].
    """

    def __init__(self, table: ItemTable, popular_rows: np.ndarray) -> None:
        self._table, self._popular_rows = table, popular_rows

    def of(self, row: int) -> ItemFacts:
        """The facts of one row."""
        table = self._table
        others = (table.value(name, row) for name in ("brand", "categories", "price"))
        return ItemFacts(table.item_ids[row].item(), table.title(row), *others)

    def find(self, query: str, k: int, own: int, allowed: np.ndarray | None) -> np.ndarray:
        """Catalogue rows of the best ``k`` items for a query, int64 [at most k].

        Args:
            own: the row of the item whose id the query is, which comes first; -1 for none.
            allowed: rows that may come out, bool [n_items]; None for all.
        """
        words, matches = words_of(query), np.zeros(len(self._popular_rows), dtype=bool)
        if words or not query.strip():
            matches = self._table.title_words.texts_with(words, len(matches))
        if own >= 0:
            matches[own] = True
        if allowed is not None:
            matches &= allowed
        rows = self._popular_rows[matches[self._popular_rows]]
        if own >= 0 and matches[own]:
            rows = np.concatenate([[own], rows[rows != own]])
        return np.asarray(rows[:k])
