"""What a model folder knows of its items beside the model: title, brand, categories and price, for rules over them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import ConfigDict, ValidationError, model_validator

from genrec_core.errors import GenrecError
from genrec_core.settings import Settings
from genrec_core.storage.artifacts import atomic_file

ITEMS = "items.json"


class ItemTable(Settings):
    """The content of ``items.json``: columns by item of the model, in the order of its catalogue; null where absent."""

    model_config = ConfigDict(allow_inf_nan=False, strict=True)

    item_id: list[int]
    title: list[str | None]
    brand: list[str | None]
    categories: list[str | None]
    price: list[float | None]

    @model_validator(mode="after")
    def _columns_of_one_length(self) -> "ItemTable":
        lengths = {name: len(getattr(self, name)) for name in type(self).model_fields}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of different lengths: {lengths}")
        return self

    @classmethod
    def load(cls, model_dir: Path, item_ids: np.ndarray) -> "ItemTable":
        """Read ``items.json``.

        Raises:
            GenrecError: it is missing, cannot be read, or holds other items than the model.
        """
        path = model_dir / ITEMS
        if not path.is_file():
            raise GenrecError(
                f"{model_dir}: holds no {ITEMS}, which rules need; export the model again with its catalogue "
                "(genrec export --catalog, or the asset onnx_encoder)"
            )
        try:
            table = cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, fault["loc"])) or "the file"
            raise GenrecError(f"{path}: cannot be read ({place}: {fault['msg']}); export the model again") from error
        except OSError as error:
            raise GenrecError(f"{path}: cannot be read ({error}); export the model again") from error
        if not np.array_equal(table.item_id, item_ids):
            raise GenrecError(f"{path}: does not hold the items of the model; export it again")
        return table

    def followed_by(self, new: "ItemTable") -> "ItemTable":
        """The table with further items behind."""
        return ItemTable(**{name: getattr(self, name) + getattr(new, name) for name in type(self).model_fields})

    def save(self, model_dir: Path) -> None:
        """Write ``items.json``."""
        with atomic_file(model_dir / ITEMS) as part:
            part.write_text(self.model_dump_json(), encoding="utf-8")


def folded(text: str) -> str:
    """Without case, white space folded: what texts are compared by."""
    return " ".join(text.casefold().split())


@dataclass(frozen=True)
class TextAttribute:
    """A text that items have, some of them several times, as distinct values and who has them.

    Args:
        place: folded values, each once, with their index.
        written: the same, in that order, as the catalogue writes them.
        row, value: entry by entry a catalogue row and the index of a value of its, int64 [entries].
        present: rows that have any, bool [n_items].
    """

    place: dict[str, int]
    written: list[str]
    row: np.ndarray
    value: np.ndarray
    present: np.ndarray

    @classmethod
    def of(cls, texts: list[list[str]]) -> "TextAttribute":
        """From the texts of each item; empty ones count as absent."""
        place: dict[str, int] = {}
        written: list[str] = []
        entries: list[tuple[int, int]] = []
        for row, names in enumerate(texts):
            for name in names:
                if key := folded(name):
                    if key not in place:
                        place[key] = len(written)
                        written.append(name)
                    entries.append((row, place[key]))
        rows, values = np.array(entries, dtype=np.int64).reshape(-1, 2).T
        present = np.zeros(len(texts), dtype=bool)
        present[rows] = True
        return cls(place, written, rows, values, present)

    def where(self, hit: np.ndarray) -> np.ndarray:
        """Rows that have one of the values that ``hit`` marks, bool [n_items]."""
        found = np.zeros(len(self.present), dtype=bool)
        found[self.row[hit[self.value]]] = True
        return found

    def containing(self, part: str) -> np.ndarray:
        """Which distinct values contain the folded text ``part``, bool."""
        return np.fromiter((part in key for key in self.place), dtype=bool, count=len(self.place))

    def among(self, keys: tuple[str, ...]) -> np.ndarray:
        """Which distinct values are one of the folded texts ``keys``, bool."""
        found = np.zeros(len(self.place), dtype=bool)
        found[[self.place[key] for key in keys if key in self.place]] = True
        return found

    def shown(self, key: str) -> str:
        """A folded value as the catalogue writes it."""
        return self.written[self.place[key]]


@dataclass(frozen=True)
class NumberAttribute:
    """A number that items have.

    Args:
        values: float64 or int64 [n_items]; not a number where absent.
        present: bool [n_items].
    """

    values: np.ndarray
    present: np.ndarray


class ItemAttributes:
    """The attributes that rules compare, by catalogue row; each is indexed when a rule first asks for it."""

    def __init__(self, table: ItemTable) -> None:
        self._table = table

    def attribute(self, field: str) -> TextAttribute | NumberAttribute:
        """The attribute behind a field of a rule: ``brand``, ``category``, ``title``, ``price`` or ``item_id``."""
        found: TextAttribute | NumberAttribute = getattr(self, field)
        return found

    @cached_property
    def brand(self) -> TextAttribute:
        """One at most an item."""
        return TextAttribute.of([[brand] if brand else [] for brand in self._table.brand])

    @cached_property
    def title(self) -> TextAttribute:
        """One at most an item."""
        return TextAttribute.of([[title] if title else [] for title in self._table.title])

    @cached_property
    def category(self) -> TextAttribute:
        """Every name of every path: ``Beauty > Nails; Gifts > Women`` is Beauty, Nails, Gifts and Women."""
        paths = ((categories or "").replace("; ", " > ") for categories in self._table.categories)
        return TextAttribute.of([path.split(" > ") for path in paths])

    @cached_property
    def price(self) -> NumberAttribute:
        """Absent prices are not numbers."""
        values = np.array(self._table.price, dtype=np.float64)  # None becomes NaN
        return NumberAttribute(values, np.isfinite(values))

    @cached_property
    def item_id(self) -> NumberAttribute:
        """Every item has one."""
        values = np.array(self._table.item_id, dtype=np.int64)
        return NumberAttribute(values, np.ones(len(values), dtype=bool))
