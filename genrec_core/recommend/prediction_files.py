"""Writes lists of items row by row: ``user_id, pred_1 .. pred_K``."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from genrec_core.storage.artifacts import opened_text


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet, by its name."""
    return path.suffix.lower() == ".parquet"


def prediction_columns(top_k: int) -> list[str]:
    """The names of the item columns, best first."""
    return [f"pred_{rank}" for rank in range(1, top_k + 1)]


class PredictionWriter(Protocol):
    """Takes rows in the order of the requests."""

    def write(self, users: list[str], items: np.ndarray, counts: np.ndarray) -> None:
        """Add rows.

        Args:
            users: one a row.
            items: item ids int64 [users, k]; entries from ``counts`` on are no items.
            counts: int64 [users].
        """

    def close(self) -> None:
        """Finish the file; without it, there is none to use."""

    def discard(self) -> None:
        """Let go of everything, finished or not."""


class CsvPredictions:
    """A CSV file; a cell is empty where no item is left.

    Args:
        path: the file to write, or a descriptor such as ``/dev/stdout`` to add to.
        top_k: item columns.
        header: whether it begins with the column names.
    """

    def __init__(self, path: Path, top_k: int, header: bool = True) -> None:
        self._file = opened_text(path)
        self._writer, self._top_k = csv.writer(self._file, lineterminator="\n"), top_k
        if header:
            self._writer.writerow(["user_id", *prediction_columns(top_k)])

    def write(self, users: list[str], items: np.ndarray, counts: np.ndarray) -> None:
        """See :class:`PredictionWriter`."""
        rows: Iterable[tuple[str, list[object], int]] = zip(users, items.tolist(), counts.tolist(), strict=True)
        for user, row, count in rows:
            self._writer.writerow([user, *row[:count], *[""] * (self._top_k - count)])

    def close(self) -> None:
        """See :class:`PredictionWriter`."""
        self._file.close()

    def discard(self) -> None:
        """See :class:`PredictionWriter`."""
        self._file.close()
