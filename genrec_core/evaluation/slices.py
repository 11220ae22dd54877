"""Metrics by history length and by how often the target occurs in training."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from genrec_core.evaluation.intervals import summarize
from genrec_core.evaluation.metrics import SLICED, user_metrics

SCHEMA = {
    "by": pl.Utf8,
    "slice": pl.Utf8,
    "users": pl.Int64,
    **dict.fromkeys(SLICED, pl.Float64),
    "recall@10_low": pl.Float64,
    "recall@10_high": pl.Float64,
    "popularity_recall@10": pl.Float64,
}
# What users are sliced by: the largest value of each slice but the last, and the names of the slices.
SLICES = {
    "history_length": ((5, 10, 20), ("<=5", "6-10", "11-20", ">20")),
    "target_popularity": ((0, 5, 20, 100), ("0", "1-5", "6-20", "21-100", ">100")),
}


def slice_names(by: str, values: np.ndarray) -> np.ndarray:
    """The slice of each user, str [n_users]."""
    edges, names = SLICES[by]
    return np.array(names)[np.searchsorted(edges, values)]


def metrics_by_slice(
    values: Mapping[str, np.ndarray],
    ranks: np.ndarray,
    popularity_ranks: np.ndarray,
    deepest: float,
    samples: int,
    seed: int,
) -> pl.DataFrame:
    """One row for each slice, in the columns of ``SCHEMA``; metrics are null in a slice without users.

    Args:
        values: whole numbers to slice by, int [n_users], under the names of ``SLICES``.
        ranks: ranks of the model, int [n_users].
        popularity_ranks: ranks of the popularity baseline, int [n_users].
    """
    rows: list[dict[str, Any]] = []
    for by, numbers in values.items():
        slices = slice_names(by, numbers)
        for name in SLICES[by][1]:
            row: dict[str, Any] = {"by": by, "slice": name, "users": int((slices == name).sum())}
            if row["users"]:
                summary = summarize(ranks[slices == name], deepest, samples, seed)
                row |= {metric: summary.get(metric) for metric in SLICED}
                row["recall@10_low"], row["recall@10_high"] = summary.get("recall@10_interval", (None, None))
                popular = user_metrics(popularity_ranks[slices == name], deepest).get("recall@10")
                row["popularity_recall@10"] = None if popular is None else float(popular.mean())
            rows.append(row)
    return pl.DataFrame(rows, schema=SCHEMA)


def slices_as_json(slices: pl.DataFrame) -> dict[str, list[dict[str, object]]]:
    """The rows grouped by what they slice by, in row order."""
    return {str(by): rows.drop("by").to_dicts() for (by,), rows in slices.group_by("by", maintain_order=True)}
