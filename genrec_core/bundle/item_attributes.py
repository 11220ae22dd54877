"""What rules compare: the catalogue's columns of a model folder, indexed by their values."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from genrec_core.bundle.item_table import ItemTable
from genrec_core.bundle.text_column import TextColumn
from genrec_core.data.ids import are_text

FIELDS: dict[str, type] = {"brand": str, "category": str, "title": str, "price": float, "item_id": int}


def folded(text: str) -> str:
    """The form in which texts are compared: lower case, one space between words."""
    return " ".join(text.casefold().split())


@dataclass(frozen=True)
class TextAttribute:
    """Values that items have, some of them several; what holds them is a text, which many items may share."""

    place: dict[str, int]  # folded values, each once, with their index
    text: np.ndarray  # texts int32 [entries], each with the index of one of its values
    value: np.ndarray  # that index, int32 [entries]
    n_texts: int
    text_of_item: np.ndarray  # int32 [n_items]

    @classmethod
    def of(cls, texts: Iterable[list[str]], text_of_item: np.ndarray) -> "TextAttribute":
        """From the values of each text; empty ones count as absent."""
        place: dict[str, int] = {}
        entries, values, number = array("i"), array("i"), -1
        for number, names in enumerate(texts):
            for key in filter(None, map(folded, names)):
                entries.append(number)
                values.append(place.setdefault(key, len(place)))
        return cls(place, np.array(entries, np.int32), np.array(values, np.int32), number + 1, text_of_item)

    @property
    def present(self) -> np.ndarray:
        """Which items have any value, bool [n_items]."""
        return self._items(self.text)

    def where(self, values: list[int]) -> np.ndarray:
        """Which items have one of the values with these indices, bool [n_items]."""
        return self._items(self.text[np.isin(self.value, values)])

    def _items(self, texts: np.ndarray) -> np.ndarray:
        chosen = np.zeros(self.n_texts, dtype=bool)
        chosen[texts] = True
        return np.asarray(chosen.take(self.text_of_item))


@dataclass(frozen=True)
class NumberAttribute:
    """A number that items have."""

    values: np.ndarray  # float64 or int64 [n_items]; not a number where absent
    present: np.ndarray  # bool [n_items]


class ItemAttributes:
    """The attributes that rules compare, by field and catalogue row; each is indexed for the first rule with it."""

    def __init__(self, table: ItemTable) -> None:
        self._table = table
        self.attribute = cache(self._index)

    @cached_property
    def fields(self) -> dict[str, type]:
        """The fields, each with the type of its values: ``str``, ``float``, or ``int`` for whole-number ids."""
        kinds = {
            name: str if isinstance(column, TextColumn) else float
            for name, column in self._table.columns.items()
            if name not in (*FIELDS, "categories")  # their field is ``category``
        }
        return FIELDS | {"item_id": str if are_text(self._table.item_ids) else int} | kinds

    def _index(self, field: str) -> TextAttribute | NumberAttribute:
        ids = self._table.item_ids
        if field == "item_id":
            if self.fields[field] is str:
                return TextAttribute.of(([item] for item in ids.tolist()), np.arange(len(ids)))
            return NumberAttribute(np.asarray(ids), np.ones(len(ids), dtype=bool))
        column = self._table.columns["categories" if field == "category" else field]
        if not isinstance(column, TextColumn):
            return NumberAttribute(column, np.isfinite(column))
        texts: Iterable[str] = map(column.texts.__getitem__, range(len(column.texts)))
        if field == "title":  # a title may hold a "; " of its own
            return TextAttribute.of(([text] for text in texts), column.text_of_item)
        if field == "category":  # all names of all paths: "Beauty > Nails; Gifts" is Beauty, Nails and Gifts
            texts = (text.replace(" > ", "; ") for text in texts)
        return TextAttribute.of((text.split("; ") for text in texts), column.text_of_item)
