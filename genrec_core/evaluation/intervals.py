"""Means of metrics over users, with bootstrap intervals."""

from typing import Any

import numpy as np

from genrec_core.errors import GenrecError
from genrec_core.evaluation.metrics import user_metrics

CONFIDENCE = 0.95
_CHUNK_DRAWS = 2_000_000  # users drawn at once: 32 MB


def bootstrap_means(values: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Means over users drawn with replacement, float64 [samples, n_metrics].

    Args:
        values: float64 [n_users, n_metrics].
        samples: resamples of all users.
        seed: seed of the draws; two rankings of the same users draw the same users under one seed.
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
    """Percentile interval of each metric's mean over users, float64 [n_metrics, 2] (low, high).

    Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    tail = (1 - CONFIDENCE) / 2
    bounds: np.ndarray = np.quantile(bootstrap_means(values, samples, seed), [tail, 1 - tail], axis=0)
    return bounds.T


def summarize(ranks: np.ndarray, deepest: float, samples: int, seed: int) -> dict[str, Any]:
    """Means over users and their intervals: ``recall@10``, ``recall@10_interval`` ([low, high]), and so on.

    Raises:
        GenrecError: there is no user.
    """
    if len(ranks) == 0:
        raise GenrecError("no user to evaluate: metrics need at least one history of three items")
    by_user = user_metrics(ranks, deepest)
    intervals = bootstrap_intervals(np.column_stack(list(by_user.values())), samples, seed)
    means = {name: float(values.mean()) for name, values in by_user.items()}
    return means | {f"{name}_interval": bounds.tolist() for name, bounds in zip(by_user, intervals, strict=True)}


def paired_differences(
    ours: np.ndarray, theirs: np.ndarray, deepest: float, samples: int, seed: int
) -> dict[str, dict[str, float]]:
    """For each metric the ``difference`` of two rankings of the same users, and its interval ``low`` to ``high``.

    Each draw takes a user with both ranks, so what is hard for both rankings cancels out.
    """
    first, second = user_metrics(ours, deepest), user_metrics(theirs, deepest)
    values = np.column_stack([first[name] - second[name] for name in first])
    bounds = bootstrap_intervals(values, samples, seed)
    return {
        name: {"difference": float(difference), "low": float(low), "high": float(high)}
        for name, difference, (low, high) in zip(first, values.mean(axis=0), bounds, strict=True)
    }
