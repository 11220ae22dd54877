"""What a model folder knows of its items beside the model: the catalogue's columns, for rules over them."""

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ConfigDict, Field, ValidationError, model_validator

from genrec_core.bundle.model_folder import ITEMS
from genrec_core.data.item_text import TEXT_FIELDS, ItemFields
from genrec_core.errors import GenrecError
from genrec_core.settings import Settings
from genrec_core.storage.artifacts import atomic_file

if TYPE_CHECKING:  # inference does without polars, which is large
    import polars as pl


_STANDARD = tuple(name for name in TEXT_FIELDS if name != "description")  # long, and no rule compares it
FIELDS: dict[str, type] = {"brand": str, "category": str, "title": str, "price": float, "item_id": int}
Column = list[str | None] | list[float | None]


class ItemTable(Settings):
    """The content of ``items.json``: columns in the order of the model's items, null where an item lacks something.

    Further columns of the catalogue, texts or numbers, stand beside these.
    """

    model_config = ConfigDict(allow_inf_nan=False, strict=True, extra="allow")
    __pydantic_extra__: dict[str, Column] = Field(init=False)

    item_id: list[int] | list[str]
    title: list[str | None]
    brand: list[str | None]
    categories: list[str | None]
    price: list[float | None]

    @property
    def columns(self) -> dict[str, Column]:
        """All columns but ``item_id``, by name."""
        standard: dict[str, Column] = {name: getattr(self, name) for name in _STANDARD}
        return standard | self.__pydantic_extra__

    @model_validator(mode="after")
    def _columns_of_one_length(self) -> "ItemTable":
        lengths = {"item_id": len(self.item_id)} | {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of different lengths: {lengths}")
        return self

    @classmethod
    def of_catalog(cls, catalog: "pl.DataFrame", item_ids: np.ndarray) -> "ItemTable":
        """The attributes of ``item_ids``, int64 or text [n_items], in that order, from the frame of ``item_catalog``.

        An item that the catalogue lacks has no attributes. A further column without any value is left out.
        """
        import polars as pl

        items, fields = pl.DataFrame({"item_id": item_ids.tolist()}), ItemFields.of_catalog(catalog)
        further = [name for name in (*fields.texts, *fields.numbers) if name not in TEXT_FIELDS]
        types: dict[str, pl.DataType | type[pl.DataType]] = dict.fromkeys((*_STANDARD, *further), pl.String)
        types |= dict.fromkeys(fields.numbers, pl.Float64) | {"item_id": items.schema["item_id"], "price": pl.Float64}
        try:
            table = catalog.select(pl.col(name).cast(dtype) for name, dtype in types.items())
        except pl.exceptions.PolarsError as error:
            raise GenrecError(f"the item catalogue cannot be read ({error}); give the frame of item_catalog") from error
        repeated = table["item_id"].filter(table["item_id"].is_duplicated())
        if len(repeated):
            raise GenrecError(f"the item catalogue holds item {repeated[0]} twice; keep one row an item")
        if items.join(table, on="item_id", how="semi").is_empty():
            raise GenrecError("the item catalogue holds no item of the model; give the catalogue it was trained on")
        rows = items.join(table, on="item_id", how="left", maintain_order="left")
        finite = rows.with_columns(pl.when(pl.col(pl.Float64).is_finite()).then(pl.col(pl.Float64)))
        empty = [name for name in further if finite[name].null_count() == len(finite)]
        return cls.model_validate(finite.drop(empty).to_dict(as_series=False))

    @classmethod
    def load(cls, model_dir: Path, item_ids: np.ndarray) -> "ItemTable":
        """Read ``items.json``, and refuse one that holds other items than ``item_ids``, those of the model."""
        path = model_dir / ITEMS
        if not path.is_file():
            again = "export the model again with its catalogue (genrec export --catalog, or the asset onnx_encoder)"
            raise GenrecError(f"{model_dir}: holds no {ITEMS}, which rules need; {again}")
        try:
            table = cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise GenrecError(f"{path}: cannot be read ({_first_fault(error)}); export the model again") from error
        if not np.array_equal(table.item_id, item_ids):
            raise GenrecError(f"{path}: does not hold the items of the model; export it again")
        return table

    def with_new(self, item_ids: np.ndarray, fields: list[dict[str, Any]]) -> "ItemTable":
        """The table with new items, int64 or text [n], at its end; ``fields`` are the columns of each."""
        columns = {name: [*column, *(row.get(name) for row in fields)] for name, column in self.columns.items()}
        try:
            return ItemTable.model_validate({"item_id": [*self.item_id, *item_ids.tolist()], **columns})
        except ValidationError as error:
            place = _first_fault(error)
            raise GenrecError(f"new items: {place}, unlike the items of the model; give values as theirs") from error

    def save(self, model_dir: Path) -> None:
        """Write ``items.json``."""
        with atomic_file(model_dir / ITEMS) as part:
            part.write_text(self.model_dump_json(), encoding="utf-8")


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg']}"


def folded(text: str) -> str:
    """The form in which texts are compared: lower case, one space between words."""
    return " ".join(text.casefold().split())


@dataclass(frozen=True)
class TextAttribute:
    """A text that items have, some of them several times."""

    place: dict[str, int]  # folded values, each once, with their index
    row: np.ndarray  # catalogue rows int64 [entries], each with the index of one of its values
    value: np.ndarray  # that index, int64 [entries]
    present: np.ndarray  # rows that have any value, bool [n_items]

    @classmethod
    def of(cls, texts: list[list[str]]) -> "TextAttribute":
        """From the texts of each item; empty ones count as absent."""
        place: dict[str, int] = {}
        entries: list[tuple[int, int]] = []
        for row, names in enumerate(texts):
            for key in filter(None, map(folded, names)):
                entries.append((row, place.setdefault(key, len(place))))
        rows, values = np.array(entries, dtype=np.int64).reshape(-1, 2).T
        present = np.zeros(len(texts), dtype=bool)
        present[rows] = True
        return cls(place, rows, values, present)

    def where(self, values: list[int]) -> np.ndarray:
        """Rows bool [n_items] that have one of the values with these indices."""
        rows = np.zeros(len(self.present), dtype=bool)
        rows[self.row[np.isin(self.value, values)]] = True
        return rows


@dataclass(frozen=True)
class NumberAttribute:
    """A number that items have."""

    values: np.ndarray  # float64 or int64 [n_items]; not a number where absent
    present: np.ndarray  # bool [n_items]


class ItemAttributes:
    """The attributes that rules compare, by field and catalogue row; each is indexed for the first rule with it."""

    def __init__(self, table: ItemTable) -> None:
        self._table, self._columns = table, table.columns
        self.attribute = cache(self._index)

    @cached_property
    def fields(self) -> dict[str, type]:
        """The fields, each with the type of its values: ``str``, ``float``, or ``int`` for whole-number ids."""
        kinds = {name: _kind(column) for name, column in self._columns.items() if name not in FIELDS}
        del kinds["categories"]  # their field is ``category``
        return FIELDS | {"item_id": str if isinstance(next(iter(self._table.item_id), 0), str) else int} | kinds

    def _index(self, field: str) -> TextAttribute | NumberAttribute:
        if field == "item_id":
            ids = self._table.item_id
            if self.fields[field] is str:
                return TextAttribute.of([[str(item)] for item in ids])
            return NumberAttribute(np.array(ids, dtype=np.int64), np.ones(len(ids), dtype=bool))
        column = self._columns["categories" if field == "category" else field]
        if self.fields[field] is float:
            numbers = np.array(column, dtype=np.float64)  # None becomes NaN
            return NumberAttribute(numbers, np.isfinite(numbers))
        texts = [str(text or "") for text in column]
        if field == "title":  # a title may hold a "; " of its own
            return TextAttribute.of([[text] for text in texts])
        if field == "category":  # all names of all paths: "Beauty > Nails; Gifts" is Beauty, Nails and Gifts
            texts = [text.replace(" > ", "; ") for text in texts]
        return TextAttribute.of([text.split("; ") for text in texts])


def _kind(column: Column) -> type:
    return type(next((value for value in column if value is not None), ""))
