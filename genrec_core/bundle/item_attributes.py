"""What a model folder knows of its items beside the model: title, brand, categories and price, for rules over them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ConfigDict, ValidationError, model_validator

from genrec_core.bundle.model_folder import ITEMS
from genrec_core.errors import GenrecError
from genrec_core.settings import Settings
from genrec_core.storage.artifacts import atomic_file


class ItemTable(Settings):
    """The content of ``items.json``: columns in the order of the model's items, null where an item lacks something."""

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
        """Read ``items.json``, and refuse one that holds other items than ``item_ids``, those of the model."""
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
        """The table with the rows of ``new`` at its end."""
        return ItemTable(**{name: getattr(self, name) + getattr(new, name) for name in type(self).model_fields})

    def save(self, model_dir: Path) -> None:
        """Write ``items.json``."""
        with atomic_file(model_dir / ITEMS) as part:
            part.write_text(self.model_dump_json(), encoding="utf-8")


def folded(text: str) -> str:
    """The form in which texts are compared: lower case, one space between words."""
    return " ".join(text.casefold().split())


@dataclass(frozen=True)
class TextAttribute:
    """A text that items have, some of them several times."""

    place: dict[str, int]  # folded values, each once, with their index
    written: list[str]  # the same, in that order, as the catalogue writes them
    row: np.ndarray  # catalogue rows int64 [entries], each with the index of one of its values
    value: np.ndarray  # that index, int64 [entries]
    present: np.ndarray  # rows that have any value, bool [n_items]

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

    def where(self, wanted: np.ndarray) -> np.ndarray:
        """Rows bool [n_items] that have one of the ``wanted`` values, bool [values]."""
        rows = np.zeros(len(self.present), dtype=bool)
        rows[self.row[wanted[self.value]]] = True
        return rows

    def containing(self, part: str) -> np.ndarray:
        """Which values contain the folded text ``part``, bool [values]."""
        return np.fromiter((part in key for key in self.place), dtype=bool, count=len(self.place))

    def among(self, keys: tuple[str, ...]) -> np.ndarray:
        """Which values are one of the folded texts ``keys``, bool [values]."""
        values = np.zeros(len(self.place), dtype=bool)
        values[[self.place[key] for key in keys if key in self.place]] = True
        return values

    def shown(self, key: str) -> str:
        """A folded value as the catalogue writes it."""
        return self.written[self.place[key]]


@dataclass(frozen=True)
class NumberAttribute:
    """A number that items have."""

    values: np.ndarray  # float64 or int64 [n_items]; not a number where absent
    present: np.ndarray  # bool [n_items]


class ItemAttributes:
    """The attributes that rules compare, by catalogue row; each is indexed when a rule first asks for it."""

    def __init__(self, table: ItemTable) -> None:
        self._table = table
        self._indexed: dict[str, TextAttribute | NumberAttribute] = {}

    def attribute(self, field: str) -> TextAttribute | NumberAttribute:
        """The attribute behind a field of a rule: ``brand``, ``category``, ``title``, ``price`` or ``item_id``."""
        if field not in self._indexed:
            self._indexed[field] = self._index(field)
        return self._indexed[field]

    def _index(self, field: str) -> TextAttribute | NumberAttribute:
        table = self._table
        if field == "item_id":
            return NumberAttribute(np.array(table.item_id, dtype=np.int64), np.ones(len(table.item_id), dtype=bool))
        if field == "price":
            prices = np.array(table.price, dtype=np.float64)  # None becomes NaN
            return NumberAttribute(prices, np.isfinite(prices))
        if field == "category":  # all names of all paths: "Beauty > Nails; Gifts" is Beauty, Nails and Gifts
            paths = ((categories or "").replace("; ", " > ") for categories in table.categories)
            return TextAttribute.of([path.split(" > ") for path in paths])
        return TextAttribute.of([[text] if text else [] for text in getattr(table, field)])
