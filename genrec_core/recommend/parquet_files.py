"""Reads requests from Parquet and writes predictions to it.

Requests have the columns ``user_id`` (text or integers), ``item_ids`` (lists of integers or of text), and optionally
``allow``, ``deny`` (such lists, or text as in CSV) and ``rule`` (text). Null or an empty list is an empty history, or
no constraint.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import polars as pl

from genrec_core.errors import GenrecError
from genrec_core.recommend.prediction_files import Write, csv_predictions, prediction_columns
from genrec_core.recommend.request_files import CONSTRAINT_COLUMNS, Check, Rejected, Request, request_of

if TYPE_CHECKING:
    from polars._typing import PolarsDataType

_WANTED = {
    "user_id": "text or integers",
    "item_ids": "lists of integers or lists of text",
    "allow": "lists of integers or lists of text or text",
    "deny": "lists of integers or lists of text or text",
    "rule": "text",
}
SLICE_ROWS = 1 << 15  # rows read at once; memory grows with these and with the file's row groups, not with the file
_FIT_INT64 = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)
_ROW_GROUP_CELLS = 1 << 22


def has_integer_users(path: Path) -> bool:
    """Whether the requests hold user ids as integers of at most 64 bits, not as text."""
    return _schema(path)["user_id"] in _FIT_INT64


def count_rows(path: Path) -> int:
    """The number of requests."""
    _schema(path)
    with _reading(path):
        return int(pl.scan_parquet(path).select(pl.len()).collect().item())


def read_parquet(path: Path, check: Check | None, lines: range | None, text_ids: bool) -> Iterator[Request | Rejected]:
    """See :func:`genrec_core.recommend.request_files.read_requests`; a request's line is its row, from 1."""
    optional = [name for name in CONSTRAINT_COLUMNS if name in _schema(path)]
    rows = pl.scan_parquet(path).select(pl.col("user_id").cast(pl.String), "item_ids", *optional)
    total = count_rows(path)
    lines = lines or range(1, total + 1)
    for first in range(lines.start - 1, min(lines.stop - 1, total), SLICE_ROWS):
        with _reading(path):
            frame = rows.slice(first, min(SLICE_ROWS, lines.stop - 1 - first)).collect()
        for number, row in enumerate(frame.iter_rows(named=True), first + 1):
            try:
                yield request_of(number, row, check, text_ids)
            except GenrecError as error:
                yield Rejected(number, str(error), " ".join(str(cell) for cell in row.values() if cell))


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
        if name in schema and _kind(schema[name]) not in wanted.split(" or "):
            raise GenrecError(f"{path}: column {name} is {schema[name]}; make it {wanted}")
    return schema


def _kind(dtype: "PolarsDataType") -> str:
    if isinstance(dtype, pl.List):
        inner = _kind(dtype.inner)
        return f"lists of {inner}" if inner in ("integers", "text") else ""
    return "integers" if dtype.is_integer() else "text" if dtype in (pl.String, pl.Null) else ""


@contextmanager
def parquet_predictions(path: Path, top_k: int, integer_users: bool, text_ids: bool) -> Iterator[Write]:
    """See :func:`genrec_core.recommend.prediction_files.open_predictions`; a cell is null where no item is left.

    The rows go to a CSV file first, because they need not fit in memory.
    """
    types: dict[str, type[pl.DataType]] = {"user_id": pl.Int64 if integer_users else pl.String}
    types |= dict.fromkeys(prediction_columns(top_k), pl.String if text_ids else pl.Int64)
    try:
        with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".rows") as folder:
            rows = Path(folder, "rows.csv")
            with csv_predictions(rows, top_k, header=True) as write:
                yield write
            group = max(1, _ROW_GROUP_CELLS // top_k)
            pl.scan_csv(rows, schema=types, glob=False).sink_parquet(path, row_group_size=group, maintain_order=True)
    except pl.exceptions.PolarsError as error:
        raise OSError(str(error)) from error
