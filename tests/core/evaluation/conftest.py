"""A model that needs no training: log-probabilities read from random tables."""

from collections.abc import Callable

import numpy as np
import pytest

from genrec_core.data.histories import HistoryBatch


class TableScorer:
    """A ``CodeScorer`` whose belief depends on the newest item of a history and on the token before."""

    def __init__(self, level_sizes: tuple[int, ...], n_items: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.by_item = [random.normal(size=(n_items, size)) for size in level_sizes]
        self.whole = random.normal(size=(n_items, n_items))
        self.by_token = [random.normal(size=(max(level_sizes), size)) for size in level_sizes]

    def start(self, histories: HistoryBatch) -> "TableSession":
        newest = histories.rows[np.arange(len(histories.rows)), histories.lengths - 1]
        return TableSession(self, newest)


class TableSession:
    """One batch of users at one level after the other."""

    def __init__(self, scorer: TableScorer, newest: np.ndarray) -> None:
        self.scorer, self.newest, self.level = scorer, newest, 0

    def item_logits(self) -> np.ndarray:
        logits = self.scorer.whole[self.newest]
        return (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)

    def first(self) -> np.ndarray:
        return self._scored(self.scorer.by_item[0][self.newest])

    def advance(self, tokens: np.ndarray, parents: np.ndarray, users: np.ndarray) -> np.ndarray:
        return self._scored(
            self.scorer.by_item[self.level][self.newest[users]] + self.scorer.by_token[self.level][tokens]
        )

    def _scored(self, logits: np.ndarray) -> np.ndarray:
        self.level += 1
        return (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)


@pytest.fixture(scope="session")
def table_scorer() -> Callable[[tuple[int, ...], int, int], TableScorer]:
    """Called with level sizes, items and a seed."""
    return TableScorer
