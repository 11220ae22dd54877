"""Reads request files in Parquet: columns ``user_id``, ``item_ids``, and optionally ``allow``, ``deny``, ``rule``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from genrec_core.errors import GenrecError
from genrec_core.recommend.constraints import Constraints
from genrec_core.recommend.requests import (
    CONSTRAINT_COLUMNS,
    Check,
    MalformedError,
    Rejected,
    Request,
    constraints_of,
    item_ids_of,
    user_id_of,
)

SLICE_ROWS = 1 << 15  # rows read at once; memory grows with these and with the file's row groups, not with the file
_FIT_INT64 = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)
_SHOWN_ITEMS = 50  # of a rejected row


def user_type(path: Path) -> pl.DataType:
    """The type of ``user_id``: Int64 where the file holds integers that fit it, else String.

    Raises:
        GenrecError: as :func:`read_parquet_requests`.
    """
    return pl.Int64() if _schema(path)["user_id"] in _FIT_INT64 else pl.String()


def count_rows(path: Path) -> int:
    """Rows of the file.

    Raises:
        GenrecError: as :func:`read_parquet_requests`.
    """
    _schema(path)
    try:
        return int(pl.scan_parquet(path).select(pl.len()).collect().item())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(path, error) from error


def read_parquet_requests(
    path: Path, check: Check | None = None, lines: range | None = None
) -> Iterator[Request | Rejected]:
    """Read a Parquet request file slice by slice, in its order; a request's line is its row, from 1.

    ``user_id`` is text or integers, ``item_ids`` lists of integers. ``allow`` and ``deny`` are such lists too, or text
    with ids separated by spaces; ``rule`` is text. Null or an empty list is an empty history, or no constraint.

    Args:
        path: the file.
        check, lines: as in :func:`genrec_core.recommend.requests.read_requests`.

    Raises:
        GenrecError: the file cannot be read as Parquet, lacks a column, has one of another type, or (where all rows are
            read) holds no row.
    """
    columns, rows = _columns(_schema(path)), count_rows(path)
    if lines is None and not rows:
        raise GenrecError(f"{path}: no requests in it; write rows of user_id and item_ids")
    wanted = lines or range(1, rows + 1)
    for first in range(wanted.start - 1, min(wanted.stop - 1, rows), SLICE_ROWS):
        length = min(SLICE_ROWS, wanted.stop - 1 - first)
        try:
            frame = pl.scan_parquet(path).select(columns).slice(first, length).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise _unreadable(path, error) from error
        for number, row in enumerate(frame.iter_rows(named=True), first + 1):
            yield _outcome(number, row, check)


def _schema(path: Path) -> pl.Schema:
    try:
        schema = pl.scan_parquet(path).collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(path, error) from error
    for name in ("user_id", "item_ids", *CONSTRAINT_COLUMNS):
        dtype = schema.get(name)
        if dtype is None and name not in CONSTRAINT_COLUMNS:
            raise GenrecError(f"{path}: no column {name}; it has {', '.join(schema) or 'none'}")
        if dtype is not None and not _fits(name, dtype):
            raise GenrecError(f"{path}: column {name} is {dtype}; {_WANTED.get(name, 'lists of integers, or text')}")
    return schema


_WANTED = {"user_id": "text or integers", "item_ids": "lists of integers", "rule": "text"}


def _fits(name: str, dtype: pl.DataType) -> bool:
    inner = dtype.inner if isinstance(dtype, pl.List) else None
    integers = inner is not None and (inner.is_integer() or inner == pl.Null)
    if name == "user_id":
        return dtype in (pl.String, pl.Null) or dtype.is_integer()
    if name == "item_ids":
        return integers
    return dtype in (pl.String, pl.Null) or (integers and name != "rule")


def _columns(schema: pl.Schema) -> list[pl.Expr]:
    """Users as text, lists as they are."""
    names = [name for name in ("item_ids", *CONSTRAINT_COLUMNS) if name in schema]
    return [pl.col("user_id").cast(pl.String), *(pl.col(name) for name in names)]


def _unreadable(path: Path, error: Exception) -> GenrecError:
    return GenrecError(f"{path}: cannot be read as Parquet ({error}); name a readable request file")


def _outcome(number: int, row: dict[str, Any], check: Check | None) -> Request | Rejected:
    try:
        user_id = user_id_of(row["user_id"] or "")
        constraints = _constraints(row)
        if check is not None and constraints:
            check(constraints)
        return Request(number, user_id, _items(row["item_ids"], "item_ids"), constraints)
    except (MalformedError, GenrecError) as error:
        return Rejected(number, str(error), _content(row))


def _constraints(row: dict[str, Any]) -> Constraints:
    lists = {name: row.get(name) for name in ("allow", "deny")}
    if all(value is None or isinstance(value, str) for value in lists.values()):
        return constraints_of({name: (row.get(name) or "").strip() for name in CONSTRAINT_COLUMNS})
    allow, deny = (item_ids_of(v) if isinstance(v, str) else v and _items(v, name) for name, v in lists.items())
    return Constraints.of(allow or None, deny or None, (row.get("rule") or "").strip() or None)


def _items(items: list[int | None] | None, name: str) -> list[int]:
    known = [item for item in items or () if item is not None and -(2**63) <= item < 2**63]
    if len(known) != len(items or ()):
        raise MalformedError(f"{name} holds a null or an id of more than 64 bits")
    return known


def _content(row: dict[str, Any]) -> str:
    """The row as text, for the list of rejected ones."""
    items = row["item_ids"] or []
    return " ".join(
        map(str, [row["user_id"], *items[:_SHOWN_ITEMS], *[row[n] for n in CONSTRAINT_COLUMNS if row.get(n)]])
    )
