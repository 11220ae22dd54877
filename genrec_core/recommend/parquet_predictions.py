"""Writes lists of items as Parquet.

Polars writes one frame at a time, and the rows of a run need not fit in memory. So pieces are written beside the file
as the rows come, and polars' streaming engine joins them at the end.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from genrec_core.recommend.prediction_files import Write, prediction_columns

_PIECE_CELLS = 1 << 21  # cells of one piece of a Parquet file: 16 MB in memory
_ROW_GROUP_CELLS = 1 << 22


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
    """Parquet files in a folder, in the order of their rows."""

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
