"""Metrics by history length and by how often the target was seen in training."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from genrec_core.evaluation.metrics import Cutoffs, summarize, user_metrics

SLICE_METRICS = ("recall@10", "ndcg@10", "recall@100")
SCHEMA = {
    "by": pl.Utf8,
    "slice": pl.Utf8,
    "users": pl.Int64,
    **dict.fromkeys(SLICE_METRICS, pl.Float64),
    "recall@10_low": pl.Float64,
    "recall@10_high": pl.Float64,
    "popularity_recall@10": pl.Float64,
}


@dataclass(frozen=True)
class Bins:
    """Named ranges of whole numbers: up to each edge, and above the last.

    Args:
        by: what is sliced by.
        edges: largest value of every bin but the last.
        names: one more than ``edges``.
    """

    by: str
    edges: tuple[int, ...]
    names: tuple[str, ...]

    def of(self, values: np.ndarray) -> np.ndarray:
        """Bin number of each value."""
        return np.searchsorted(self.edges, values, side="left")


HISTORY_LENGTH = Bins("history_length", (5, 10, 20), ("<=5", "6-10", "11-20", ">20"))
TARGET_POPULARITY = Bins("target_popularity", (0, 5, 20, 100), ("0", "1-5", "6-20", "21-100", ">100"))


@dataclass(frozen=True)
class SlicedRanks:
    """What the slices are computed from, one entry a user.

    Args:
        model: ranks of the model, history removed.
        popularity: ranks of the popularity baseline.
        cutoffs: which metrics the rankings can give.
        samples: bootstrap resamples.
        seed: seed of the bootstrap.
    """

    model: np.ndarray
    popularity: np.ndarray
    cutoffs: Cutoffs
    samples: int
    seed: int

    def by(self, bins: Bins, values: np.ndarray) -> pl.DataFrame:
        """One row a bin, in the columns of ``SCHEMA``; metrics are null where a bin has no user."""
        number = bins.of(values)
        rows = [{"by": bins.by, "slice": name, **self._row(number == bin_)} for bin_, name in enumerate(bins.names)]
        return pl.DataFrame(rows, schema=SCHEMA)

    def _row(self, members: np.ndarray) -> dict[str, float | int | None]:
        users = int(members.sum())
        if users == 0:
            return {"users": 0, **dict.fromkeys(list(SCHEMA)[3:])}
        summary = summarize(self.model[members], self.cutoffs, self.samples, self.seed)
        baseline = user_metrics(self.popularity[members], self.cutoffs)
        low, high = interval if isinstance(interval := summary.get("recall@10_interval"), list) else (None, None)
        means = {name: value for name in SLICE_METRICS if not isinstance(value := summary.get(name), list)}
        return {
            "users": users,
            **means,
            "recall@10_low": low,
            "recall@10_high": high,
            "popularity_recall@10": float(baseline["recall@10"].mean()) if "recall@10" in baseline else None,
        }


def slices_as_json(frame: pl.DataFrame) -> dict[str, list[dict[str, object]]]:
    """The slices grouped by what they slice by, in row order."""
    return {
        by: frame.filter(pl.col("by") == by).drop("by").to_dicts()
        for by in frame["by"].unique(maintain_order=True).to_list()
    }
