"""The metrics: how each is computed, its name for people, the list lengths K that are reported, and its interval.

A new metric is one function and one line in ``USER_METRICS`` or ``LIST_METRICS``. All files, pages and tables follow.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from genrec_core.data.split import mean_of_each_user

RECALL_CUTOFFS = (5, 10, 50, 100, 1000)
CONFIDENCE = 0.95
_CHUNK_DRAWS = 2_000_000  # users drawn at once: 32 MB


@dataclass(frozen=True)
class RankingResult:
    """The ranks and lists that one ranking gives for the targets."""

    ranks: np.ndarray  # 0-based rank of each target, int32 [n]; -1 where it is not in the list
    lists: np.ndarray  # first items of each list, int32 [n, LISTED_ITEMS or fewer]; -1 where it is shorter
    targets: np.ndarray  # catalogue rows, int32 [n]
    is_new: np.ndarray  # whether training never saw the item, bool [n_items]


@dataclass(frozen=True)
class Metric:
    """A metric, called ``name@K`` in files."""

    name: str
    title: str  # the name for people; {k} stands for K
    cutoffs: tuple[int, ...]  # each K that is reported
    compute: Callable[..., Any]


def recall_hits(ranks: np.ndarray, k: int) -> np.ndarray:
    """Whether each target is among the first ``k``: float64 [n_targets], 0 or 1."""
    return ((ranks >= 0) & (ranks < k)).astype(np.float64)


def ndcg_gains(ranks: np.ndarray, k: int) -> np.ndarray:
    """NDCG@``k`` of each target, float64 [n_targets]; the ideal gain is 1, as there is one relevant item."""
    inside = recall_hits(ranks, k) > 0
    return np.where(inside, 1.0 / np.log2(np.where(inside, ranks, 0) + 2.0), 0.0)


def exposure(ranking: RankingResult, k: int) -> np.ndarray:
    """How many lists hold each item among their first ``k``, int64 [n_items]."""
    shown = ranking.lists[:, :k]
    return np.bincount(shown[shown >= 0], minlength=len(ranking.is_new)).astype(np.int64)


def gini(shown: np.ndarray) -> float:
    """Gini coefficient of how often items are shown: 0 if equally often, near 1 if a few items take all places."""
    if not shown.sum():
        return 0.0
    ascending, n = np.sort(shown).astype(np.float64), len(shown)
    return float(2 * (np.arange(1, n + 1) * ascending).sum() / (n * ascending.sum()) - (n + 1) / n)


def coverage(ranking: RankingResult, k: int) -> float:
    """Share of the catalogue that at least one list shows."""
    return float((exposure(ranking, k) > 0).mean())


def new_item_share(ranking: RankingResult, k: int) -> float:
    """Share of all places that new items fill."""
    shown = exposure(ranking, k)
    return float(shown[ranking.is_new].sum() / max(shown.sum(), 1))


def new_item_recall(ranking: RankingResult, k: int) -> float | None:
    """Recall over the targets that are new items; None without such targets."""
    ranks = ranking.ranks[ranking.is_new[ranking.targets]]
    return float(recall_hits(ranks, k).mean()) if len(ranks) else None


# Computed from ranks and K: one value for each target, from these one for each user, whose mean is reported with an
# interval.
USER_METRICS = (
    Metric("recall", "Recall@{k}", RECALL_CUTOFFS, recall_hits),
    Metric("ndcg", "NDCG@{k}", (5, 10), ndcg_gains),
)
# Computed from a RankingResult and K: one value, or None. The lists hold 100 items; only ranks reach deeper.
LIST_METRICS = (
    Metric("coverage", "items in someone's first {k}", (10, 100), coverage),
    Metric("gini", "Gini of exposure, first {k}", (10, 100), lambda ranking, k: gini(exposure(ranking, k))),
    Metric("new_item_share", "new items among the first {k}", (10, 100), new_item_share),
    Metric("new_item_recall", "Recall@{k}, new items", (10, 100, 1000), new_item_recall),
)
_ALL = (*USER_METRICS, *LIST_METRICS)

TITLES = {f"{metric.name}@{k}": metric.title.format(k=k) for metric in _ALL for k in metric.cutoffs}
TITLES["miss_share"] = "misses"  # measured by decoding without the trie, for the generative ranking alone
SHOWN_FIRST = ("recall@10", "ndcg@10", "recall@100", "recall@1000")  # in short tables
USER_METRIC_NAMES = [f"{metric.name}@{k}" for metric in USER_METRICS for k in metric.cutoffs]
MAIN_METRIC = "recall@10"  # runs of a sweep are compared by it
JUDGED = ("recall@10", "ndcg@10")  # by which a new release must not be worse
SLICED = ("recall@10", "ndcg@10", "recall@100")


def deepest_cutoff(beams: int, n_items: int) -> float:
    """The largest K that a ranking of ``beams`` items can report; infinite if it ranks the whole catalogue."""
    return beams if beams < n_items else math.inf


def user_metrics(ranks: np.ndarray, users: np.ndarray, deepest: float) -> dict[str, np.ndarray]:
    """Each user metric by name for all K up to ``deepest``: the mean over a user's targets, float64 [n_users].

    Args:
        ranks: 0-based rank of each target, int [n_targets]; -1 where it is not in the list.
        users: whose target each is, int [n_targets].
    """
    by_target = {name: compute(ranks, k) for name, k, compute in _named(USER_METRICS) if k <= deepest}
    return {name: mean_of_each_user(values, users) for name, values in by_target.items()}


def list_metrics(ranking: RankingResult, deepest: float) -> dict[str, float]:
    """Each list metric by name for all K up to ``deepest``; without those that have no value."""
    values = {name: compute(ranking, k) for name, k, compute in _named(LIST_METRICS) if k <= deepest}
    return {name: value for name, value in values.items() if value is not None}


def mean_metrics(ranks: np.ndarray, users: np.ndarray, deepest: float) -> dict[str, float]:
    """The mean over users of each of :func:`user_metrics`."""
    return {name: float(values.mean()) for name, values in user_metrics(ranks, users, deepest).items()}


def _named(metrics: tuple[Metric, ...]) -> list[tuple[str, int, Callable[..., Any]]]:
    return [(f"{metric.name}@{k}", k, metric.compute) for metric in metrics for k in metric.cutoffs]


def bootstrap_means(values: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Means over users drawn with replacement, float64 [samples, n_metrics], from values [n_users, n_metrics].

    Two rankings of the same users draw the same users under one seed.
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


def summarize(ranks: np.ndarray, users: np.ndarray, deepest: float, samples: int, seed: int) -> dict[str, Any]:
    """Means over users and their intervals: ``recall@10``, ``recall@10_interval`` ([low, high]), and so on."""
    by_user = user_metrics(ranks, users, deepest)
    intervals = bootstrap_intervals(np.column_stack(list(by_user.values())), samples, seed)
    named = {f"{name}_interval": bounds.tolist() for name, bounds in zip(by_user, intervals, strict=True)}
    return mean_metrics(ranks, users, deepest) | named


def paired_differences(
    ours: np.ndarray, theirs: np.ndarray, users: np.ndarray, deepest: float, samples: int, seed: int
) -> dict[str, dict[str, float]]:
    """For each metric the ``difference`` of two rankings of the same users, and its interval ``low`` to ``high``.

    Each draw takes a user with both ranks, so what is hard for both rankings cancels out.
    """
    first, second = user_metrics(ours, users, deepest), user_metrics(theirs, users, deepest)
    values = np.column_stack([first[name] - second[name] for name in first])
    bounds = bootstrap_intervals(values, samples, seed)
    return {
        name: {"difference": float(difference), "low": float(low), "high": float(high)}
        for name, difference, (low, high) in zip(first, values.mean(axis=0), bounds, strict=True)
    }
