"""What a model folder knows of its items beside the model: title, brand, categories and price, for rules over them."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ConfigDict, ValidationError, model_validator

from genrec_core.bundle.model_folder import ITEMS
from genrec_core.errors import GenrecError
from genrec_core.settings import Settings
from genrec_core.storage.artifacts import atomic_file

if TYPE_CHECKING:  # inference does without polars, which is large
    import polars as pl


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
    def of_catalog(cls, catalog: "pl.DataFrame", item_ids: np.ndarray) -> "ItemTable":
        """The attributes of ``item_ids`` int64 [n_items], in that order, from the frame of ``item_catalog``.

        An item that the catalogue lacks has no attributes.
        """
        import polars as pl

        types: dict[str, type[pl.DataType]] = dict.fromkeys(cls.model_fields, pl.String)
        types |= {"item_id": pl.Int64, "price": pl.Float64}
        try:
            table = catalog.select(pl.col(name).cast(dtype) for name, dtype in types.items())
        except pl.exceptions.PolarsError as error:
            raise GenrecError(f"the item catalogue cannot be read ({error}); give the frame of item_catalog") from error
        repeated = table["item_id"].filter(table["item_id"].is_duplicated())
        if len(repeated):
            raise GenrecError(f"the item catalogue holds item {repeated[0]} twice; keep one row an item")
        items = pl.DataFrame({"item_id": item_ids.astype(np.int64)})
        if items.join(table, on="item_id", how="semi").is_empty():
            raise GenrecError("the item catalogue holds no item of the model; give the catalogue it was trained on")
        rows = items.join(table, on="item_id", how="left", maintain_order="left")
        finite = pl.when(pl.col("price").is_finite()).then(pl.col("price"))
        return cls.model_validate(rows.with_columns(finite).to_dict(as_series=False))

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
            fault = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, fault["loc"])) or "the file"
            raise GenrecError(f"{path}: cannot be read ({place}: {fault['msg']}); export the model again") from error
        if not np.array_equal(table.item_id, item_ids):
            raise GenrecError(f"{path}: does not hold the items of the model; export it again")
        return table

    def with_new(self, item_ids: np.ndarray, fields: list[dict[str, Any]]) -> "ItemTable":
        """The table with new items at its end; ``fields`` are the columns of each."""
        rows = [{**row, "item_id": item} for row, item in zip(fields, item_ids.tolist(), strict=True)]
        columns = {name: getattr(self, name) + [row[name] for row in rows] for name in type(self).model_fields}
        return ItemTable(**columns)

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
        self._table = table
        self.attribute = cache(self._index)

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
