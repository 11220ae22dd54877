"""Reads request files in Parquet: columns ``user_id``, ``item_ids``, and optionally ``allow``, ``deny``, ``rule``.

``user_id`` is text or integers, ``item_ids`` lists of integers. ``allow`` and ``deny`` are lists of integers too, or
text with ids separated by spaces; ``rule`` is text. Null or an empty list is an empty history, or no constraint.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from genrec_core.data.ids import item_ids_of, user_id_of
from genrec_core.errors import GenrecError
from genrec_core.recommend.requests import CONSTRAINT_COLUMNS, Check, Rejected, Request, constraints_of

SLICE_ROWS = 1 << 15  # rows read at once; memory grows with these and with the file's row groups, not with the file
_FIT_INT64 = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)
_SHOWN_ITEMS = 50  # of a rejected row


def has_integer_users(path: Path) -> bool:
    return _schema(path)["user_id"] in _FIT_INT64


def count_lines(path: Path) -> int:
    _schema(path)
    with _reading(path):
        return int(pl.scan_parquet(path).select(pl.len()).collect().item())


def read(path: Path, check: Check | None, lines: range | None) -> Iterator[Request | Rejected]:
    """See :func:`genrec_core.recommend.requests.read_requests`; a request's line is its row, from 1."""
    optional = [name for name in CONSTRAINT_COLUMNS if name in _schema(path)]
    rows = pl.scan_parquet(path).select(pl.col("user_id").cast(pl.String), "item_ids", *optional)
    total = count_lines(path)
    lines = lines or range(1, total + 1)
    for first in range(lines.start - 1, min(lines.stop - 1, total), SLICE_ROWS):
        with _reading(path):
            frame = rows.slice(first, min(SLICE_ROWS, lines.stop - 1 - first)).collect()
        for number, row in enumerate(frame.iter_rows(named=True), first + 1):
            yield _outcome(number, row, check)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise GenrecError(f"{path}: cannot be read as Parquet ({error}); name a readable request file") from error


def _schema(path: Path) -> pl.Schema:
    with _reading(path):
        schema = pl.scan_parquet(path).collect_schema()
    for name in ("user_id", "item_ids"):
        if name not in schema:
            raise GenrecError(f"{path}: no column {name}; it has {', '.join(schema) or 'none'}")
    for name, wanted in _WANTED.items():
        if name in schema and not _fits(name, schema[name]):
            raise GenrecError(f"{path}: column {name} is {schema[name]}; make it {wanted}")
    return schema


_WANTED = {
    "user_id": "text or integers",
    "item_ids": "lists of integers",
    "allow": "lists of integers, or text",
    "deny": "lists of integers, or text",
    "rule": "text",
}


def _fits(name: str, dtype: pl.DataType) -> bool:
    if isinstance(dtype, pl.List):
        return name not in ("user_id", "rule") and (dtype.inner.is_integer() or dtype.inner == pl.Null)
    if dtype.is_integer():
        return name == "user_id"
    return name != "item_ids" and dtype in (pl.String, pl.Null)


def _outcome(number: int, row: dict[str, Any], check: Check | None) -> Request | Rejected:
    try:
        user_id = user_id_of(row["user_id"] or "")
        constraints = constraints_of(row)
        if check is not None and constraints:
            check(constraints)
        return Request(number, user_id, item_ids_of(row["item_ids"] or ()), constraints)
    except GenrecError as error:
        cells = [row["user_id"], *(row["item_ids"] or [])[:_SHOWN_ITEMS]]
        cells += [row[name] for name in CONSTRAINT_COLUMNS if row.get(name)]
        return Rejected(number, str(error), " ".join(map(str, cells)))
