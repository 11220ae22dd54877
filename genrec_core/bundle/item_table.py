"""The catalogue's columns in a model folder, mapped from their files, so that the processes of a server share them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError

from genrec_core.bundle.model_folder import ITEMS
from genrec_core.bundle.text_column import TextColumn, Texts
from genrec_core.bundle.word_index import WordIndex
from genrec_core.data.ids import AnyId
from genrec_core.data.item_text import TEXT_FIELDS, ItemFields
from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import read_array, read_json, write_json

if TYPE_CHECKING:  # inference does without polars, which is large
    import polars as pl

_STANDARD = tuple(name for name in TEXT_FIELDS if name != "description")  # long, and no rule compares it
_NUMBER = "price"  # the one of them that is a number


Column = TextColumn | np.ndarray  # numbers are float64 [n_items], not a number where absent


class _StoredColumn(BaseModel):
    """One entry of ``columns.json``; the arrays of a column lie beside it, under its place in the list."""

    name: str
    kind: Literal["text", "number"]


_LISTED = TypeAdapter(list[_StoredColumn])


@dataclass(frozen=True)
class ItemTable:
    """The columns of the catalogue in the order of the model's items.

    They are title, brand, categories and price, and further columns of the catalogue, texts or numbers.
    """

    item_ids: np.ndarray  # int64 or text [n_items]
    columns: dict[str, Column]  # by name
    stored_words: WordIndex | None = None  # of the titles, as the folder holds them

    @classmethod
    def of(cls, item_ids: np.ndarray, columns: Mapping[str, Sequence[Any]]) -> "ItemTable":
        """From the values of each item, None where it has none; a standard column that is not given is empty.

        Args:
            item_ids: int64 or text [n_items].
            columns: by name texts or numbers, [n_items] each. One without any value holds texts, but for ``price``.
        """
        nothing = [None] * len(item_ids)
        given = {name: columns.get(name, nothing) for name in _STANDARD} | dict(columns)
        return cls(item_ids, {name: _column(name, values) for name, values in given.items()})

    @classmethod
    def of_catalog(cls, catalog: "pl.DataFrame", item_ids: np.ndarray) -> "ItemTable":
        """The columns for ``item_ids``, int64 or text [n_items], in that order, from the frame of ``item_catalog``.

        An item that the catalogue lacks has no values. A further column without any value is left out.
        """
        import polars as pl

        items, fields = pl.DataFrame({"item_id": item_ids.tolist()}), ItemFields.of_catalog(catalog)
        further = [name for name in (*fields.texts, *fields.numbers) if name not in TEXT_FIELDS]
        types: dict[str, pl.DataType | type[pl.DataType]] = dict.fromkeys((*_STANDARD, *further), pl.String)
        types |= dict.fromkeys(fields.numbers, pl.Float64) | {"item_id": items.schema["item_id"], _NUMBER: pl.Float64}
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
        return cls.of(item_ids, {column.name: column.to_list() for column in finite.drop("item_id", *empty)})

    @classmethod
    def load(cls, model_dir: Path, item_ids: np.ndarray) -> "ItemTable":
        """Map the columns of a folder whose model has these ``item_ids``; refuse what does not fit them."""
        path = model_dir / ITEMS
        try:
            listed = _LISTED.validate_python(read_json(path))
        except ValidationError as error:
            raise GenrecError(f"{path}: lists no columns; export the model again") from error
        columns: dict[str, Column] = {}
        for place, stored in enumerate(listed):
            first, *more = (np.asarray(read_array(file, "r")) for file in _files(path.parent, place, stored.kind))
            columns[stored.name] = column = TextColumn(Texts(first, more[0]), more[1]) if more else first
            if len(column) != len(item_ids):
                fault = f"column {stored.name} holds {len(column)} items, but the model has {len(item_ids)}"
                raise GenrecError(f"{path}: {fault}; export it again")
        return cls(item_ids, columns, WordIndex.load(path.parent))

    def save(self, model_dir: Path) -> None:
        """Write the columns into the folder ``items`` of a model folder that is not whole yet, and no file else."""
        path = model_dir / ITEMS
        path.parent.mkdir(exist_ok=True)
        for old in path.parent.glob("*.npy"):
            old.unlink()  # not written over: this table may be mapped from it
        for place, column in enumerate(self.columns.values()):
            for file, array in zip(_files(path.parent, place, _kind(column)), _arrays(column), strict=True):
                np.save(file, array, allow_pickle=False)
        self.title_words.save(path.parent)
        write_json(path, [{"name": name, "kind": _kind(column)} for name, column in self.columns.items()])

    def with_new(self, item_ids: np.ndarray, fields: list[dict[str, Any]]) -> "ItemTable":
        """The table with new items, int64 or text [n], at its end; ``fields`` are the columns of each."""
        columns: dict[str, list[Any]] = {}
        for name, column in self.columns.items():
            new = [row.get(name) for row in fields]
            kinds = (str,) if isinstance(column, TextColumn) else (float, int)
            wrong = [value for value in new if value is not None and not isinstance(value, kinds)]
            if wrong:
                raise GenrecError(
                    f"new items: {name} {wrong[0]!r:.60} is no {_kind(column)}, unlike the items of the model; "
                    "give values as theirs"
                )
            columns[name] = [*values_of(column), *new]
        return ItemTable.of(np.concatenate([self.item_ids, item_ids]), columns)

    def value(self, name: str, row: int) -> Any:
        """The text or the number that an item has in a column; None where it has none."""
        value = self.columns[name][row]
        return value if value is None or isinstance(value, str) else _number(float(value))

    def title(self, row: int) -> str:
        """The title of an item, or what stands for it."""
        return self.value("title", row) or title_without(self.item_ids[row].item())

    @cached_property
    def title_words(self) -> WordIndex:
        """The words of the titles, by row."""
        return self.stored_words or WordIndex.of(map(self.title, range(len(self.item_ids))))

    def rows(self) -> Iterator[dict[str, Any]]:
        """The values of each item by column, None where it has none."""
        for row in zip(*map(values_of, self.columns.values()), strict=True):
            yield dict(zip(self.columns, row, strict=True))


def title_without(item_id: AnyId) -> str:
    """What stands for the title of an item that has none."""
    return f"item {item_id}"


def values_of(column: Column) -> Iterator[Any]:
    """The text or the number of each item; None where it has none."""
    return iter(column) if isinstance(column, TextColumn) else map(_number, column.tolist())


def _number(value: float) -> float | None:
    return None if value != value else value  # what is no number is unlike itself


def _column(name: str, values: Sequence[Any]) -> Column:
    if name == _NUMBER or any(isinstance(value, float | int) for value in values):
        return np.array(values, dtype=np.float64)  # None becomes not a number
    return TextColumn.of(values)


def _kind(column: Column) -> Literal["text", "number"]:
    return "text" if isinstance(column, TextColumn) else "number"


def _arrays(column: Column) -> tuple[np.ndarray, ...]:
    if isinstance(column, TextColumn):
        return column.texts.letters, column.texts.ends, column.text_of_item
    return (column,)


def _files(folder: Path, place: int, kind: Literal["text", "number"]) -> list[Path]:
    """The files of :func:`_arrays`."""
    parts = ("letters", "ends", "text_of_item") if kind == "text" else ("numbers",)
    return [folder / f"{place}.{part}.npy" for part in parts]
