"""Writes lists of items as Parquet; apart from the CSV writer, because it needs polars."""

import shutil
import uuid
from pathlib import Path

import numpy as np
import polars as pl

from genrec_core.recommend.prediction_files import prediction_columns

_PIECE_CELLS = 1 << 21  # cells of one piece of a Parquet file: 16 MB in memory
_ROW_GROUP_CELLS = 1 << 22


class ParquetPredictions:
    """A Parquet file; a cell is null where no item is left.

    Polars writes a frame at a time, and a run's rows need not fit the memory: pieces are written beside the file as
    they come, and joined by polars' streaming engine at the end.

    Args:
        path: the file to write.
        top_k: item columns.
        user_type: type of ``user_id``, String or Int64.
    """

    def __init__(self, path: Path, top_k: int, user_type: pl.DataType | None = None) -> None:
        self._path, self._top_k = path, top_k
        self._user_type = user_type or pl.String()
        self._pieces = path.with_name(f".{path.name}.{uuid.uuid4().hex}.pieces")
        self._pieces.mkdir()
        self._written: list[Path] = []
        self._rows: list[pl.DataFrame] = []
        self._waiting = 0

    def write(self, users: list[str], items: np.ndarray, counts: np.ndarray) -> None:
        """See :class:`PredictionWriter`."""
        self._rows.append(self._frame(users, items, counts))
        self._waiting += len(users) * self._top_k
        if self._waiting >= _PIECE_CELLS:
            self._write_piece()

    def close(self) -> None:
        """See :class:`PredictionWriter`."""
        if self._rows or not self._written:
            nothing = np.empty((0, self._top_k), dtype=np.int64)
            self._rows.append(self._frame([], nothing, np.empty(0, dtype=np.int64)))
            self._write_piece()
        rows = max(1, _ROW_GROUP_CELLS // self._top_k)
        pl.scan_parquet(self._written, glob=False).sink_parquet(self._path, row_group_size=rows, maintain_order=True)

    def discard(self) -> None:
        """See :class:`PredictionWriter`."""
        shutil.rmtree(self._pieces, ignore_errors=True)

    def _frame(self, users: list[str], items: np.ndarray, counts: np.ndarray) -> pl.DataFrame:
        named = pl.Series("user_id", users, dtype=pl.String).cast(self._user_type)
        columns = [
            pl.Series(name, items[:, rank], dtype=pl.Int64).set(pl.Series(counts <= rank), None)
            for rank, name in enumerate(prediction_columns(self._top_k))
        ]
        return pl.DataFrame([named, *columns])

    def _write_piece(self) -> None:
        path = self._pieces / f"{len(self._written):08d}.parquet"
        pl.concat(self._rows).write_parquet(path, compression="lz4")
        self._written.append(path)
        self._rows, self._waiting = [], 0
