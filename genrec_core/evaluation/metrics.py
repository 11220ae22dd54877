"""Recall, NDCG and their bootstrap intervals, from the rank of each user's target."""

from dataclasses import dataclass

import numpy as np

from genrec_core.errors import GenrecError

RECALL_CUTOFFS = (5, 10, 50, 100, 1000)
NDCG_CUTOFFS = (5, 10)
CONFIDENCE = 0.95
_CHUNK_DRAWS = 2_000_000  # users drawn at once by the bootstrap: 32 MB


def recall_hits(ranks: np.ndarray, k: int) -> np.ndarray:
    """Whether each target is among the first ``k``: float64 [n_users], 0 or 1.

    Args:
        ranks: 0-based rank of each user's target, int [n_users]; -1 where it was not ranked.
        k: length of the list that is looked at.
    """
    return ((ranks >= 0) & (ranks < k)).astype(np.float64)


def ndcg_gains(ranks: np.ndarray, k: int) -> np.ndarray:
    """NDCG@``k`` of each user, float64 [n_users].

    With one relevant item the ideal gain is 1, so a target at 0-based rank r below ``k`` gives 1 / log2(r + 2).
    """
    inside = recall_hits(ranks, k) > 0
    return np.where(inside, 1.0 / np.log2(np.where(inside, ranks, 0) + 2.0), 0.0)


@dataclass(frozen=True)
class Cutoffs:
    """Which metrics a ranking of limited depth can give.

    Args:
        beams: depth of the ranking; items beyond it were not ranked.
        n_items: items in the catalogue.
    """

    beams: int
    n_items: int

    def reported(self, cutoffs: tuple[int, ...]) -> list[int]:
        """The K that the ranking is deep enough for; all of them where it holds the whole catalogue."""
        return [k for k in cutoffs if k <= self.beams or self.beams >= self.n_items]

    def not_reported(self) -> list[int]:
        """Recall cut-offs beyond the beams."""
        return [k for k in RECALL_CUTOFFS if k not in self.reported(RECALL_CUTOFFS)]

    def over_all_items(self) -> list[int]:
        """Recall cut-offs that the catalogue is too small for: their list is every item."""
        return [k for k in self.reported(RECALL_CUTOFFS) if k > self.n_items]


def user_metrics(ranks: np.ndarray, cutoffs: Cutoffs) -> dict[str, np.ndarray]:
    """Every reported metric by user, float64 [n_users] each, named ``recall@K`` and ``ndcg@K``."""
    recalls = {f"recall@{k}": recall_hits(ranks, k) for k in cutoffs.reported(RECALL_CUTOFFS)}
    gains = {f"ndcg@{k}": ndcg_gains(ranks, k) for k in cutoffs.reported(NDCG_CUTOFFS)}
    return recalls | gains


def bootstrap_means(values: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Means over users drawn with replacement, float64 [samples, n_metrics]; the same for the same seed.

    Args:
        values: one row a user, float64 [n_users, n_metrics].
        samples: resamples of all users.
        seed: seed of the draws; two rankings of the same users under one seed are resampled alike.
    """
    users = len(values)
    random = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_DRAWS // users)
    means = []
    for first in range(0, samples, chunk):
        rows = min(chunk, samples - first)
        drawn = random.integers(0, users, (rows, users)) + np.arange(rows)[:, None] * users
        counts = np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users)
        means.append(counts @ values / users)
    return np.concatenate(means)


def bootstrap_intervals(values: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Percentile bootstrap interval of each metric's mean over users, float64 [n_metrics, 2] (low, high).

    Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    tail = (1 - CONFIDENCE) / 2
    bounds: np.ndarray = np.quantile(bootstrap_means(values, samples, seed), [tail, 1 - tail], axis=0)
    return bounds.T


def paired_differences(
    ours: np.ndarray, theirs: np.ndarray, cutoffs: Cutoffs, samples: int, seed: int
) -> dict[str, dict[str, float]]:
    """By metric the ``difference`` of two rankings of the same users, and the interval ``low`` to ``high`` of it.

    Users are drawn together with both of their ranks, so that what is hard for both cancels out.
    """
    first, second = user_metrics(ours, cutoffs), user_metrics(theirs, cutoffs)
    values = np.column_stack([first[name] - second[name] for name in first])
    bounds = bootstrap_intervals(values, samples, seed)
    return {
        name: {"difference": float(difference), "low": float(low), "high": float(high)}
        for name, difference, (low, high) in zip(first, values.mean(axis=0), bounds, strict=True)
    }


def recall_curve(ranks: np.ndarray, depth: int) -> np.ndarray:
    """Recall at every K from 1 to ``depth``, float64 [depth]; ranks as in :func:`recall_hits`."""
    inside = ranks[(ranks >= 0) & (ranks < depth)]
    return np.asarray(np.cumsum(np.bincount(inside, minlength=depth)) / max(len(ranks), 1))


def summarize(ranks: np.ndarray, cutoffs: Cutoffs, samples: int, seed: int) -> dict[str, float | list[float]]:
    """Means over users and their intervals: ``recall@10``, ``recall@10_interval`` ([low, high]), and so on.

    Raises:
        GenrecError: there is no user.
    """
    if len(ranks) == 0:
        raise GenrecError("no user to evaluate: metrics need at least one history of three items")
    by_user = user_metrics(ranks, cutoffs)
    intervals = bootstrap_intervals(np.column_stack(list(by_user.values())), samples, seed)
    means = {name: float(values.mean()) for name, values in by_user.items()}
    spans = {f"{name}_interval": bounds.tolist() for name, bounds in zip(by_user, intervals, strict=True)}
    return {**means, **spans}
