"""Writes lists of items row by row: ``user_id, pred_1 .. pred_K``, as CSV or Parquet by the name of the file."""

import csv
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np

from genrec_core.storage.artifacts import opened_text

# Adds rows in the order of the requests: users, item ids [users, k], and the length of each list, int64 [users].
Write = Callable[[list[str], np.ndarray, np.ndarray], None]


def is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def prediction_columns(top_k: int) -> list[str]:
    return [f"pred_{rank}" for rank in range(1, top_k + 1)]


def open_predictions(
    part: Path, name: Path, top_k: int, header: bool, requests: Path, text_ids: bool
) -> AbstractContextManager[Write]:
    """Open a file of predictions; it is complete at the end of the block.

    ``part`` is the file to write, or a descriptor such as ``/dev/stdout``; its final ``name`` decides its form. CSV
    begins with column names if ``header`` is set. Parquet holds user ids as integers where the ``requests`` do, and
    item ids as text where the model does (``text_ids``).
    """
    if is_parquet(name):
        from genrec_core.recommend.parquet_files import has_integer_users, parquet_predictions  # needs polars

        return parquet_predictions(part, top_k, is_parquet(requests) and has_integer_users(requests), text_ids)
    return csv_predictions(part, top_k, header)


@contextmanager
def csv_predictions(path: Path, top_k: int, header: bool) -> Iterator[Write]:
    """See :func:`open_predictions`; a cell is empty where no item is left."""
    with opened_text(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        if header:
            writer.writerow(["user_id", *prediction_columns(top_k)])

        def write(users: list[str], items: np.ndarray, counts: np.ndarray) -> None:
            for user, row, count in zip(users, items.tolist(), counts.tolist(), strict=True):
                writer.writerow([user, *row[:count], *[""] * (top_k - count)])

        yield write
