"""Tables of any shop: recognises their layout, and reads items and histories from them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from genrec_core.data.columns import INTERACTION_COLUMNS, ITEM_COLUMNS, meanings, require_meanings
from genrec_core.data.ids import id_array
from genrec_core.data.interactions import histories_of, read_interactions, same_kind
from genrec_core.data.item_table import Items, read_item_table, vector_column
from genrec_core.data.item_text import TEXT_FIELDS
from genrec_core.data.layouts import LAYOUTS, ONE_TABLE, Layout, TableForm, matching, plain_name
from genrec_core.data.table_files import is_data, read_head
from genrec_core.data.text_files import utf8_text
from genrec_core.errors import GenrecError
from genrec_core.settings import DataSettings

VECTORS, VECTOR_IDS = "vectors.npy", ("vector_ids.json", "vector_ids.txt")
_SHOWN_CELL, _EXAMPLES, _LOOKED_AT = 40, 3, 50  # characters, examples of a column, and cells that they are taken from
_NO_DATA = ("readme", "license", "licence")  # how the names of files beside the data begin


class TableSet(NamedTuple):
    """The files of one data set, by their part in it; paths are relative to its folder."""

    layout: Layout
    interactions: list[str]
    items: list[str]
    vectors: list[str]  # VECTORS and one of VECTOR_IDS, or nothing

    @property
    def files(self) -> list[str]:
        """All of them."""
        return [*self.interactions, *self.items, *self.vectors]


class Shop(NamedTuple):
    """What was read: tables as :mod:`genrec_core.data.sources` describes them, and what the pages say of them."""

    items: pl.DataFrame
    histories: pl.DataFrame
    facts: dict[str, Any]


def is_wanted(name: str) -> bool:
    """Whether a file of this name may be part of a data set."""
    return (is_data(name) and not name.lower().startswith(_NO_DATA)) or name in (VECTORS, *VECTOR_IDS)


def recognised(folder: Path, settings: DataSettings) -> TableSet | None:
    """The data set that lies in a folder, not below it but for folders of parts; None if there is none.

    A folder with one table alone holds interactions, whatever their name is.
    """
    paths = [path for at in ("*", "*/*", "*/*/*") for path in folder.glob(at) if path.is_file()]
    names = sorted(path.relative_to(folder).as_posix() for path in paths if is_wanted(path.name))
    vectors = [name for name in (VECTORS, *VECTOR_IDS) if name in names]
    tables = [name for name in names if name not in vectors]
    if settings.interactions:
        sales, goods = (
            TableForm((plain_name(name),) if name else ()) for name in (settings.interactions, settings.items)
        )
        named = TableSet(Layout("tables", sales, goods), matching(sales, tables), matching(goods, tables), vectors)
        return named if named.interactions else None
    for layout in LAYOUTS:
        items = matching(layout.items, tables)
        interactions = [name for name in matching(layout.interactions, tables) if name not in items]
        if interactions and (items or not layout.needs_items):
            return TableSet(layout, interactions, items, vectors)
    top = [name for name in tables if "/" not in name]
    return TableSet(ONE_TABLE, top, [], vectors) if len(top) == 1 else None


def overview(folder: Path, found: TableSet, settings: DataSettings) -> list[dict[str, Any]]:
    """One row a column of both tables: what it is taken for, its type, how much is empty, and examples.

    It is told from the first rows alone. Raises as :func:`genrec_core.data.columns.meanings` does.
    """
    rows = []
    for table, names, columns, head in _heads(folder, found, settings):
        meaning_of = {column: meaning for meaning, column in columns.items()}
        for column in head.columns:
            cells = head[column]
            examples = dict.fromkeys(
                str(value)[:_SHOWN_CELL] for value in cells.drop_nulls().head(_LOOKED_AT).to_list()
            )
            rows.append(
                {
                    "table": f"{table}: {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else ""),
                    "column": column,
                    "taken for": meaning_of.get(column, ""),
                    "type": "text" if cells.dtype == pl.String else str(cells.dtype),
                    "empty": round(cells.null_count() / max(len(cells), 1), 3),
                    "examples": ", ".join(list(examples)[:_EXAMPLES]),
                }
            )
    return rows


def read_shop(folder: Path, found: TableSet, settings: DataSettings) -> Shop:
    """Read a data set's items and histories.

    Raises:
        GenrecError: a file cannot be read, a column is missing or could be meant twice, or nothing is left.
    """
    columns = {table: columns for table, _, columns, _ in _heads(folder, found, settings)}
    listed = _item_table(folder, found, columns.get("items", {}))
    interactions = read_interactions(
        [folder / name for name in found.interactions],
        _form(found, settings),
        columns["interactions"],
        settings,
        listed.frame["item_id"] if listed else None,
    )
    frame = interactions.frame
    items = _with_unlisted(listed.frame if listed else _no_items(), frame["item"])
    if found.vectors:
        items = _with_vectors(items, folder, found.vectors)
    id_array(items["item_id"], f"{folder / found.interactions[0]}: column {columns['interactions']['item']}")
    kind = items["item_id"].dtype
    frame = frame.with_columns(frame["item"].cast(kind), frame["user"].cast(pl.String))
    facts = {
        "layout": found.layout.name,
        "columns": _with_uses(overview(folder, found, settings), listed.uses if listed else {}),
        "text_template": listed.template if listed else "",
        **interactions.facts,
        **(listed.facts if listed else {}),
    }
    return Shop(items.sort("item_id"), histories_of(frame), facts)


def _heads(
    folder: Path, found: TableSet, settings: DataSettings
) -> list[tuple[str, list[str], dict[str, str], pl.DataFrame]]:
    """Of both tables: which it is, its files, meaning -> column, and its first rows."""
    heads = [("interactions", found.interactions, read_head(folder / found.interactions[0], _form(found, settings)))]
    if found.items:
        heads.append(("items", found.items, read_head(folder / found.items[0], found.layout.items)))
    require_meanings(settings.columns, [head.columns for _, _, head in heads])
    usual = {"interactions": INTERACTION_COLUMNS, "items": ITEM_COLUMNS}
    form = {"interactions": found.layout.interactions.columns, "items": found.layout.items.columns}
    return [
        (
            table,
            names,
            meanings(head.columns, usual[table], settings.columns, form[table], str(folder / names[0])),
            head,
        )
        for table, names, head in heads
    ]


def _form(found: TableSet, settings: DataSettings) -> Any:
    form = found.layout.interactions
    return form._replace(header=tuple(settings.header)) if settings.header else form


def _item_table(folder: Path, found: TableSet, columns: Mapping[str, str]) -> Items | None:
    if not found.items:
        return None
    return read_item_table([folder / name for name in found.items], found.layout.items, columns)


def _no_items() -> pl.DataFrame:
    fields = {name: pl.Float64 if name == "price" else pl.String for name in TEXT_FIELDS}
    return pl.DataFrame(schema={"item_id": pl.Int64, **fields, "described": pl.Boolean})


def _with_unlisted(items: pl.DataFrame, bought: pl.Series) -> pl.DataFrame:
    """The items, and those that only the interactions know; ids of one kind."""
    listed, bought = same_kind(items["item_id"], bought.unique(maintain_order=True))
    items = items.with_columns(listed)
    unlisted = pl.DataFrame({"item_id": bought}).join(items, "item_id", "anti", maintain_order="left")
    return pl.concat([items, unlisted], how="diagonal").with_columns(pl.col("described").fill_null(value=False))


def _with_vectors(items: pl.DataFrame, folder: Path, names: Sequence[str]) -> pl.DataFrame:
    """The items with the vectors of ``vectors.npy``, whose rows belong to the ids of the file beside it."""
    if len(names) < 2:
        raise GenrecError(f"{folder / names[0]}: give {VECTORS} and {' or '.join(VECTOR_IDS)}, an id for each vector")
    path, text = folder / names[1], utf8_text(folder / names[1])
    try:
        ids = [str(item) for item in json.loads(text)] if path.suffix == ".json" else text.splitlines()
        vectors = np.load(folder / VECTORS, allow_pickle=False)
    except (ValueError, TypeError, OSError, EOFError) as error:
        raise GenrecError(f"{folder}: {names[0]} or {names[1]} cannot be read ({error}); write them again") from error
    if vectors.ndim != 2 or len(ids) != len(vectors):
        raise GenrecError(f"{path}: {len(ids)} ids for vectors of shape {vectors.shape}; give one id for each vector")
    column = vector_column(vectors.astype(np.float32), str(folder / VECTORS))
    table = pl.DataFrame({"item_id": pl.Series(ids, dtype=pl.String), "vector": column}).unique("item_id", keep="first")
    try:
        table = table.with_columns(pl.col("item_id").cast(items["item_id"].dtype))
    except pl.exceptions.PolarsError as error:
        raise GenrecError(
            f"{path}: ids that are no whole numbers, as the other tables' are ({error!s:.100})"
        ) from error
    return items.drop("vector", strict=False).join(table, "item_id", "left", maintain_order="left")


def _with_uses(rows: list[dict[str, Any]], uses: Mapping[str, str]) -> list[dict[str, Any]]:
    """The overview with the use of each column of the items, known once all items are read."""
    return [
        row
        | {"taken for": row["taken for"] or (uses.get(row["column"], "") if row["table"].startswith("items") else "")}
        for row in rows
    ]
