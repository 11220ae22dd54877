"""The metrics: how each is computed, how people read its name, and for which list lengths K it is reported.

A new metric is one function and one line in ``USER_METRICS`` or ``LIST_METRICS``. All files, pages and tables follow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

RECALL_CUTOFFS = (5, 10, 50, 100, 1000)

Measured = TypeVar("Measured")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranking:
    """The lists that one ranking gives to the users.

    Args:
        ranks: 0-based rank of each user's target, int32 [n_users]; -1 where the target is not in the list.
        lists: first items of each list, int32 [n_users, LISTED_ITEMS or fewer]; -1 where the list is shorter.
        targets: catalogue row of each user's target, int32 [n_users].
        is_new: whether training never saw the item, bool [n_items].
    """

    ranks: np.ndarray
    lists: np.ndarray
    targets: np.ndarray
    is_new: np.ndarray


@dataclass(frozen=True)
class Metric(Generic[Measured, Value]):
    """A metric, called ``name@K`` in files.

    Args:
        name: the name without K.
        title: the name for people; ``{k}`` stands for K.
        cutoffs: each K that is reported.
        shown_first: each K that short tables show.
        compute: the function of what is measured and K.
    """

    name: str
    title: str
    cutoffs: tuple[int, ...]
    shown_first: tuple[int, ...]
    compute: Callable[[Measured, int], Value]


def recall_hits(ranks: np.ndarray, k: int) -> np.ndarray:
    """Whether each target is among the first ``k``: float64 [n_users], 0 or 1."""
    return ((ranks >= 0) & (ranks < k)).astype(np.float64)


def ndcg_gains(ranks: np.ndarray, k: int) -> np.ndarray:
    """NDCG@``k`` of each user, float64 [n_users].

    With one relevant item the ideal gain is 1, so a target at 0-based rank r below ``k`` gives 1 / log2(r + 2).
    """
    inside = recall_hits(ranks, k) > 0
    return np.where(inside, 1.0 / np.log2(np.where(inside, ranks, 0) + 2.0), 0.0)


def exposure(ranking: Ranking, k: int) -> np.ndarray:
    """How many users have each item among the first ``k`` of their list, int64 [n_items]."""
    shown = ranking.lists[:, :k]
    return np.bincount(shown[shown >= 0], minlength=len(ranking.is_new)).astype(np.int64)


def gini(shown: np.ndarray) -> float:
    """Gini coefficient of how often each item is shown: 0 if equally often, near 1 if a few items take all places."""
    if not shown.sum():
        return 0.0
    ascending, n = np.sort(shown).astype(np.float64), len(shown)
    return float(2 * (np.arange(1, n + 1) * ascending).sum() / (n * ascending.sum()) - (n + 1) / n)


def coverage(ranking: Ranking, k: int) -> float:
    """Share of the catalogue that at least one user is shown."""
    return float((exposure(ranking, k) > 0).mean())


def exposure_gini(ranking: Ranking, k: int) -> float:
    return gini(exposure(ranking, k))


def new_item_share(ranking: Ranking, k: int) -> float:
    """Share of all places that new items fill."""
    shown = exposure(ranking, k)
    return float(shown[ranking.is_new].sum() / max(shown.sum(), 1))


def new_item_recall(ranking: Ranking, k: int) -> float | None:
    """Recall over the users whose target is a new item; None without such users."""
    ranks = ranking.ranks[ranking.is_new[ranking.targets]]
    return float(recall_hits(ranks, k).mean()) if len(ranks) else None


# Computed from the ranks for each user. The mean over users is reported with an interval.
USER_METRICS: tuple[Metric[np.ndarray, np.ndarray], ...] = (
    Metric("recall", "Recall@{k}", RECALL_CUTOFFS, (10, 100, 1000), recall_hits),
    Metric("ndcg", "NDCG@{k}", (5, 10), (10,), ndcg_gains),
)
# Computed from the lists of all users together. The lists hold 100 items; only ranks reach deeper.
LIST_METRICS: tuple[Metric[Ranking, float | None], ...] = (
    Metric("coverage", "items in someone's first {k}", (10, 100), (), coverage),
    Metric("gini", "Gini of exposure, first {k}", (10, 100), (), exposure_gini),
    Metric("new_item_share", "new items among the first {k}", (10, 100), (), new_item_share),
    Metric("new_item_recall", "Recall@{k}, new items", (10, 100, 1000), (), new_item_recall),
)
_ALL: tuple[Metric[Any, Any], ...] = (*USER_METRICS, *LIST_METRICS)
_CUTOFFS = sorted({k for metric in _ALL for k in metric.cutoffs})

TITLES = {f"{metric.name}@{k}": metric.title.format(k=k) for metric in _ALL for k in metric.cutoffs}
TITLES |= {"miss_share": "misses"}  # measured by decoding without the trie, for the generative ranking alone
SHOWN_FIRST = [f"{metric.name}@{k}" for k in _CUTOFFS for metric in _ALL if k in metric.shown_first]
USER_METRIC_NAMES = [f"{metric.name}@{k}" for metric in USER_METRICS for k in metric.cutoffs]
HEADLINE = "recall@10"  # runs of a sweep are compared by it
JUDGED = ("recall@10", "ndcg@10")  # by which a new release must not be worse
SLICED = ("recall@10", "ndcg@10", "recall@100")


@dataclass(frozen=True)
class Cutoffs:
    """Which metrics a ranking of limited depth can give.

    Args:
        beams: depth of the ranking; deeper items have no rank.
        n_items: items in the catalogue.
    """

    beams: int
    n_items: int

    def reported(self, cutoffs: tuple[int, ...]) -> list[int]:
        """Each K that the ranking is deep enough for; all K if it holds the whole catalogue."""
        return [k for k in cutoffs if k <= self.beams or self.beams >= self.n_items]

    def not_reported(self) -> list[int]:
        """Recall cut-offs that are deeper than the ranking."""
        return [k for k in RECALL_CUTOFFS if k not in self.reported(RECALL_CUTOFFS)]

    def over_all_items(self) -> list[int]:
        """Recall cut-offs that exceed the catalogue: their list is the whole catalogue."""
        return [k for k in self.reported(RECALL_CUTOFFS) if k > self.n_items]


def user_metrics(ranks: np.ndarray, cutoffs: Cutoffs) -> dict[str, np.ndarray]:
    """Each reported user metric by name, float64 [n_users]."""
    return {
        f"{metric.name}@{k}": metric.compute(ranks, k)
        for metric in USER_METRICS
        for k in cutoffs.reported(metric.cutoffs)
    }


def list_metrics(ranking: Ranking, cutoffs: Cutoffs) -> dict[str, float]:
    """Each reported list metric by name; without those that have no value."""
    values = {
        f"{metric.name}@{k}": metric.compute(ranking, k)
        for metric in LIST_METRICS
        for k in cutoffs.reported(metric.cutoffs)
    }
    return {name: value for name, value in values.items() if value is not None}


def recall_curve(ranks: np.ndarray, depth: int) -> np.ndarray:
    """Recall at each K from 1 to ``depth``, float64 [depth]."""
    inside = ranks[(ranks >= 0) & (ranks < depth)]
    return np.asarray(np.cumsum(np.bincount(inside, minlength=depth)) / max(len(ranks), 1))
