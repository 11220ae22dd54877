"""Reads requests from Parquet and writes predictions to it.

Requests have the columns ``user_id`` (text or integers), ``item_ids`` (lists of integers), and optionally ``allow``,
``deny`` (lists of integers, or text with ids separated by spaces) and ``rule`` (text). Null or an empty list is an
empty history, or no constraint.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from genrec_core.errors import GenrecError
from genrec_core.recommend.prediction_files import Write, prediction_columns
from genrec_core.recommend.request_files import CONSTRAINT_COLUMNS, Check, Rejected, Request, request_of

_WANTED = {
    "user_id": "text or integers",
    "item_ids": "lists of integers",
    "allow": "lists of integers, or text",
    "deny": "lists of integers, or text",
    "rule": "text",
}
SLICE_ROWS = 1 << 15  # rows read at once; memory grows with these and with the file's row groups, not with the file
_FIT_INT64 = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)
_PIECE_CELLS = 1 << 21  # cells of one piece of a file of predictions: 16 MB in memory
_ROW_GROUP_CELLS = 1 << 22


def has_integer_users(path: Path) -> bool:
    return _schema(path)["user_id"] in _FIT_INT64


def count_rows(path: Path) -> int:
    _schema(path)
    with _reading(path):
        return int(pl.scan_parquet(path).select(pl.len()).collect().item())


def read_parquet(path: Path, check: Check | None, lines: range | None) -> Iterator[Request | Rejected]:
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
                yield request_of(number, row, check)
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
        if name in schema and not _fits(name, schema[name]):
            raise GenrecError(f"{path}: column {name} is {schema[name]}; make it {wanted}")
    return schema


def _fits(name: str, dtype: pl.DataType) -> bool:
    if isinstance(dtype, pl.List):
        return name not in ("user_id", "rule") and (dtype.inner.is_integer() or dtype.inner == pl.Null)
    if dtype.is_integer():
        return name == "user_id"
    return name != "item_ids" and dtype in (pl.String, pl.Null)


@contextmanager
def parquet_predictions(path: Path, top_k: int, integer_users: bool) -> Iterator[Write]:
    """See :func:`genrec_core.recommend.prediction_files.open_predictions`; a cell is null where no item is left."""
    try:
        with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".pieces") as folder:
            pieces = _Pieces(Path(folder), top_k, integer_users)
            yield pieces.write
            pieces.join(path)
    except pl.exceptions.PolarsError as error:
        raise OSError(str(error)) from error


class _Pieces:
    """Parquet files in a folder, in the order of their rows, because the rows of a run need not fit in memory."""

    def __init__(self, folder: Path, top_k: int, integer_users: bool) -> None:
        self._folder, self._top_k = folder, top_k
        self._user_type = pl.Int64() if integer_users else pl.String()
        self._files: list[Path] = []
        self._frames: list[pl.DataFrame] = []

    def write(self, users: list[str], items: np.ndarray, counts: np.ndarray) -> None:
        columns = [
            pl.Series(name, items[:, place], dtype=pl.Int64).set(pl.Series(counts <= place), None)
            for place, name in enumerate(prediction_columns(self._top_k))
        ]
        user_ids = pl.Series("user_id", users, dtype=pl.String).cast(self._user_type)
        self._frames.append(pl.DataFrame([user_ids, *columns]))
        if sum(frame.height for frame in self._frames) * self._top_k >= _PIECE_CELLS:
            self._write_piece()

    def _write_piece(self) -> None:
        self._files.append(self._folder / f"{len(self._files):08d}.parquet")
        pl.concat(self._frames).write_parquet(self._files[-1], compression="lz4")
        self._frames = []

    def join(self, path: Path) -> None:
        """Write all rows to ``path``; without any, its columns alone."""
        self.write([], np.empty((0, self._top_k), dtype=np.int64), np.empty(0, dtype=np.int64))
        self._write_piece()
        rows = max(1, _ROW_GROUP_CELLS // self._top_k)
        pl.scan_parquet(self._files, glob=False).sink_parquet(path, row_group_size=rows, maintain_order=True)
