"""Items of a table: which of its columns describe an item, cleaned, and the template of the item's text."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from genrec_core.data.columns import identifier, label
from genrec_core.data.interactions import item_ids
from genrec_core.data.item_text import TEXT_FIELDS, categories_of, clean_text, price_of, template_of, values_of
from genrec_core.data.layouts import TableForm
from genrec_core.data.table_files import read_cells
from genrec_core.errors import GenrecError

_MOSTLY, _ALMOST_ALL = 0.5, 0.95  # shares of a column's values that tell what it is
_SAMPLED = 5000  # values by which a column is judged
_LONG = 200  # characters; longer texts stand last, as a text model reads the first ones
_URL = re.compile(r"(https?|s3|gs|ftp)://|www\.", re.IGNORECASE)
_CODE = re.compile(r"(?=\S*\d)\S+")  # one word with a digit in it
_ID_NAME = re.compile(r"(^|_)(id|ids|asin|isbn|sku|ean|upc|gtin|url|uri|uuid|hash)$")
_RESERVED = {"item_id", "item_ids", "user_id", "text", "vector", "described", "source_id", "category", *TEXT_FIELDS}


class Items(NamedTuple):
    """The items of a table."""

    frame: pl.DataFrame  # item_id, TEXT_FIELDS, further columns (String or Float64), described, and perhaps vector
    template: str  # of an item's text
    uses: dict[str, str]  # what each column of the table is for
    facts: dict[str, int]


class _Field(NamedTuple):
    """What becomes of one column."""

    name: str  # in the catalogue
    label: str  # in the text
    values: list[Any]


def read_item_table(files: Sequence[Path], form: TableForm, columns: Mapping[str, str]) -> Items:
    """Read the table of items; of an item that is listed twice, the first row counts.

    Args:
        columns: meaning -> column.

    Raises:
        GenrecError: no row has an id, or vectors have different lengths or hold no numbers.
    """
    cells = read_cells(files, form)
    place = f"{files[0]}: column {columns['item']}"
    ids = item_ids(pl.Series("item_id", [clean_id(value) for value in cells.pop(columns["item"])], pl.String), place)
    vectors = cells.pop(columns["vector"]) if "vector" in columns else None
    fields, uses = _fields(cells, {column: meaning for meaning, column in columns.items()}, form)
    frame = _frame(ids, fields)
    if vectors is not None:
        frame = frame.with_columns(vector_column(vectors, f"{files[0]}: column {columns['vector']}"))
    listed = frame.filter(pl.col("item_id").is_not_null())
    once = listed.unique("item_id", keep="first", maintain_order=True)
    if not once.height:
        raise GenrecError(f"{place}: holds no id; name another column in the setting columns, as {{item: name}}")
    facts = {"items_without_id": frame.height - listed.height, "items_listed_twice": listed.height - once.height}
    return Items(once, _template(fields), uses, facts)


def clean_id(value: Any) -> str | None:
    """An id as text without white space around it; a whole number that pandas made a float is one again."""
    if isinstance(value, float):
        value = int(value) if value.is_integer() else None if value != value else value  # NaN differs from itself
    return str(value).strip() or None if value is not None else None


def vector_column(vectors: Sequence[Any], place: str) -> pl.Series:
    """A column ``vector`` of Array(Float32), null where an item has none, from lists of numbers."""
    widths = {len(vector) for vector in vectors if vector is not None}
    if len(widths) != 1:
        raise GenrecError(f"{place}: holds vectors of {sorted(widths)[:5]} numbers; give all items the same width")
    try:
        column = pl.Series("vector", vectors, pl.Array(pl.Float32, widths.pop()))
    except (pl.exceptions.PolarsError, TypeError) as error:
        raise GenrecError(f"{place}: not lists of numbers ({error!s:.100}); mend it") from error
    broken = column.drop_nulls().explode().is_finite().not_() if len(column.drop_nulls()) else pl.Series([False])
    if broken.fill_null(value=True).any():
        raise GenrecError(f"{place}: holds NaN, infinity or an empty number; mend the vectors")
    return column


def _fields(
    cells: Mapping[str, list[Any]], meanings: Mapping[str, str], form: TableForm
) -> tuple[list[_Field], dict[str, str]]:
    fields, uses, taken = list[_Field](), dict[str, str](), set(_RESERVED)
    for column, values in cells.items():
        if column in form.flags:
            uses[column] = "category"
        elif (meaning := meanings.get(column)) in TEXT_FIELDS:
            assert meaning is not None
            uses[column] = meaning
            fields.append(_Field(meaning, label(column), _cleaned(values, _cleaner(meaning, column))))
        elif (
            reason := "not about the item" if column in form.left_out else _no_description(column, values)
        ) is not None:
            uses[column] = f"left out: {reason}"
        else:
            name = _free(identifier(column), taken)
            taken.add(name)
            numbers = _as_numbers(values)
            uses[column] = "text" if numbers is None else "number"
            fields.append(_Field(name, label(column), _cleaned(values, _several) if numbers is None else numbers))
    if form.flags:
        flagged = [
            [name for name in form.flags if str(cells[name][row]) == "1"] for row in range(len(cells[form.flags[0]]))
        ]
        fields.append(_Field("categories", "Genres", ["; ".join(names) or None for names in flagged]))
    return fields, uses


def _frame(ids: pl.Series, fields: Sequence[_Field]) -> pl.DataFrame:
    found = {field.name: field.values for field in fields}
    names = [*TEXT_FIELDS, *(name for name in found if name not in TEXT_FIELDS)]
    numbers = {"price", *(name for name, values in found.items() if any(isinstance(value, float) for value in values))}
    columns = [
        pl.Series(name, found.get(name, [None] * len(ids)), pl.Float64 if name in numbers else pl.String)
        for name in names
    ]
    described = pl.any_horizontal(pl.col(name).is_not_null() for name in names).alias("described")
    return pl.DataFrame([ids, *columns]).with_columns(described)


def _template(fields: Sequence[_Field]) -> str:
    """The title, then the other fields in file order, long ones last."""

    def place(field: _Field) -> tuple[bool, bool]:
        texts = [len(value) for value in field.values if isinstance(value, str)]
        return field.name != "title", bool(texts) and sum(texts) / len(texts) > _LONG

    return template_of({field.name: field.label for field in sorted(fields, key=place)})


def _no_description(column: str, values: Sequence[Any]) -> str | None:
    """Why a column does not describe items; None if it does."""
    filled = [value for value in values if value not in (None, "", [], {})][:_SAMPLED]
    if not filled:
        return "empty"
    parts = [part for value in filled for part in (value if isinstance(value, list) else [value])]
    if _share(parts, lambda part: isinstance(part, (dict, list)) or str(part).lstrip()[:1] in ("{", "[")) > _MOSTLY:
        return "nested"
    if _share(parts, lambda part: bool(_URL.match(str(part)))) > _MOSTLY:
        return "addresses"
    coded = _share(parts, lambda part: bool(_CODE.fullmatch(str(part)))) > _ALMOST_ALL
    if _ID_NAME.search(identifier(column)) or (
        coded
        and _as_numbers(filled) is None
        and not _are_dates(filled)
        and len({*map(str, parts)}) > _MOSTLY * len(parts)
    ):
        return "ids"
    return None


def _as_numbers(values: Sequence[Any]) -> list[float | None] | None:
    """The values as numbers, None where there is none; None if they are no numbers."""
    numbers: list[float | None] = []
    try:
        for value in values:
            number = None if value is None or value == "" else float(value)
            numbers.append(number if number is not None and np.isfinite(number) else None)
    except (TypeError, ValueError):
        return None
    return numbers if any(number is not None for number in numbers) else None


def _are_dates(values: Sequence[Any]) -> bool:
    return (
        _share(values, lambda value: isinstance(value, date) or bool(re.match(r"\d{4}-\d\d(-\d\d)?\b", str(value))))
        > _MOSTLY
    )


def _share(values: Sequence[Any], fits: Callable[[Any], bool]) -> float:
    return sum(map(fits, values)) / max(len(values), 1)


def _cleaner(meaning: str, column: str) -> Callable[[Any], Any]:
    if meaning == "price":
        return price_of
    if meaning == "categories":
        words = column.endswith(":token_seq")  # RecBole parts values by spaces
        return lambda value: categories_of("|".join(value.split()) if words and isinstance(value, str) else value)
    return clean_text


def _cleaned(values: Sequence[Any], clean: Callable[[Any], Any]) -> list[Any]:
    """Each value cleaned; equal texts are cleaned once."""
    once = cache(clean)
    return [once(value) if isinstance(value, str) else clean(value) for value in values]


def _several(value: Any) -> str | None:
    return value.isoformat() if isinstance(value, date) else values_of(value)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
