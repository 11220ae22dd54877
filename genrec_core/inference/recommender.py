"""The recommender without torch: item-id histories in, ranked item ids out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genrec_core.artifacts import verify_manifest
from genrec_core.data.histories import HistoryBatch, padded
from genrec_core.errors import GenrecError
from genrec_core.evaluation.baselines import popularity_order
from genrec_core.inference.onnx_scorer import GraphSettings, OnnxScorer, read_array
from genrec_core.settings import RankingMode
from genrec_core.tiger.neighbors import TextNeighbors
from genrec_core.tiger.search import CodeScorer, RankingWeights, beam_search
from genrec_core.tiger.trie import CodeTrie

ITEM_IDS, CODES, ITEM_VECTORS, ITEM_KEYS, POPULARITY = (
    "item_ids.npy",
    "codes_with_suffix.npy",
    "item_vectors.npy",
    "item_keys.npy",
    "popularity.npy",
)
NEIGHBORS, NEIGHBOR_BONUS = "neighbors.npy", "neighbor_bonus.npy"  # where the model lifts any
LEAST_BEAMS = 50
_SHORTEST_PADDING = 8  # items; histories are padded to this, twice this, and so on
_BATCH_BEAMS = 1 << 15  # users x beams decoded together, at most, so that memory does not grow with the beams


@dataclass(frozen=True)
class Ranking:
    """What every user of a request gets.

    Args:
        items: item ids int64 [users, k], best first; entries from ``counts`` on mean nothing.
        scores: log-probabilities float32 [users, k], -inf where there is no item and NaN for popular items.
        counts: items that each user gets, int64 [users]; fewer than k where no more are allowed and unseen.
        unknown: items of each history that the catalogue does not hold and that were dropped, int64 [users].
        popular: users without any known item, who get the most popular ones, bool [users].
    """

    items: np.ndarray
    scores: np.ndarray
    counts: np.ndarray
    unknown: np.ndarray
    popular: np.ndarray

    def of(self, user: int) -> np.ndarray:
        """The item ids of one user, best first, int64 [at most k]."""
        return self.items[user, : self.counts[user]]


class Recommender:
    """Ranks the catalogue for histories.

    Args:
        scorer: the model, ONNX or torch.
        item_ids: the data set's id by catalogue row, int64 [n_items], in any order.
        codes: semantic IDs with suffix by catalogue row, int [n_items, depth].
        level_sizes: vocabulary by level.
        popularity: training interactions by catalogue row, int64 [n_items].
        max_history: newest items of a history that the model reads.
        weights: shares of the dense head.
    """

    def __init__(
        self,
        scorer: CodeScorer,
        item_ids: np.ndarray,
        codes: np.ndarray,
        level_sizes: tuple[int, ...],
        popularity: np.ndarray,
        max_history: int,
        weights: RankingWeights,
    ) -> None:
        self.weights = weights
        self.scorer, self.item_ids, self.max_history = scorer, item_ids, max_history
        self.trie = CodeTrie.build(codes, level_sizes)
        self.popular_rows = popularity_order(popularity)
        self._by_id = np.argsort(item_ids, kind="stable")
        self._sorted_ids = item_ids[self._by_id]

    @classmethod
    def from_folder(cls, model_dir: Path, threads: int | None = None) -> "Recommender":
        """Open a model folder and verify each of its files.

        Args:
            model_dir: a folder that :func:`genrec_core.export.onnx.export_recommender` wrote.
            threads: CPU threads; None for every core that this process may use.

        Raises:
            GenrecError: a file is missing, damaged, or does not fit the others.
        """
        verify_manifest(model_dir)
        settings = GraphSettings.load(model_dir)
        names = (ITEM_IDS, CODES, POPULARITY, ITEM_VECTORS, ITEM_KEYS)
        item_ids, codes, popularity, items, keys = arrays = [read_array(model_dir / name) for name in names]
        rows = {name: len(array) for name, array in zip(names, arrays, strict=True)}
        if len(set(rows.values())) != 1:
            raise GenrecError(f"{model_dir}: the files differ in items ({rows}); export it again")
        scorer = OnnxScorer(model_dir, items, keys, _neighbors(model_dir, len(item_ids)), threads)
        sizes = settings.level_sizes
        weights = RankingWeights(settings.dense, settings.hybrid_weight)
        return cls(scorer, item_ids, codes, sizes, popularity, settings.max_history, weights)

    def recommend(
        self,
        histories: Sequence[Sequence[int]],
        top_k: int,
        beams: int | None = None,
        exclude_seen: bool = True,
        ranking: RankingMode = "hybrid",
        allow: Iterable[int] | None = None,
        deny: Iterable[int] | None = None,
    ) -> list[np.ndarray]:
        """Item ids for each history, best first, int64 [at most ``top_k``] a user.

        Args:
            histories: item ids of each user, oldest first; unknown ones are dropped, and a user without any known item
                gets the most popular items.
            top_k: items a user.
            beams: see :meth:`rank`.
            exclude_seen: leave out the items of the user's own history, all of it.
            ranking: see :meth:`rank`.
            allow: the only item ids to recommend; None for all.
            deny: item ids never to recommend.

        Raises:
            GenrecError: ``allow`` and ``deny`` leave no item.
        """
        allowed = self.allowed(allow, deny)
        found = self.rank(histories, top_k, beams=beams, exclude_seen=exclude_seen, ranking=ranking, allowed=allowed)
        return [found.of(user) for user in range(len(histories))]

    def rank(
        self,
        histories: Sequence[Sequence[int]],
        top_k: int,
        *,
        beams: int | None = None,
        exclude_seen: bool = True,
        ranking: RankingMode = "hybrid",
        allowed: np.ndarray | None = None,
        batch_users: int = 64,
    ) -> Ranking:
        """Rank the catalogue for each history.

        A user's list does not depend on who is decoded together with them: a history is padded to a length that its own
        length determines.

        Args:
            histories: item ids of each user, oldest first.
            top_k: items a user.
            beams: beams of the search; None for ``top_k``, and at least 50. Filters are exact masks inside the search,
                so that many beams always find ``top_k`` items where there are as many.
            exclude_seen: leave out the items of the user's own history, all of it.
            ranking: ``generative`` orders items by the probability of their code, ``dense`` by the dense head,
                ``hybrid`` by a mix of both whose weight was chosen on validation. A model without a dense head knows
                ``generative`` alone, which ``hybrid`` then means too.
            allowed: see :meth:`allowed`.
            batch_users: users decoded together, at most.

        Raises:
            GenrecError: ``beams`` is less than ``top_k``, or ``dense`` is asked of a model without a dense head.
        """
        beams, dense_weight = self._beams(top_k, beams), self.weights.of(ranking)
        known = [self._known_rows(history) for history in histories]
        rows = np.full((len(histories), top_k), -1, dtype=np.int32)
        scores = np.full(rows.shape, -np.inf, dtype=np.float32)
        for users in self._batches(known, min(batch_users, max(1, _BATCH_BEAMS // beams))):
            batch = [known[user] for user in users]
            ranked = beam_search(
                self.scorer,
                self.trie,
                self._padded(batch),
                beams=beams,
                top_k=min(top_k, self.trie.n_items),
                allowed=allowed,
                excluded=_seen(batch) if exclude_seen else None,
                dense_weight=dense_weight,
            )
            rows[users, : ranked.items.shape[1]] = ranked.items
            scores[users, : ranked.items.shape[1]] = ranked.scores
        popular = np.array([not len(history) for history in known], dtype=bool)
        self._fill_popular(rows, scores, popular, allowed)
        unknown = [len(history) - len(found) for history, found in zip(histories, known, strict=True)]
        items, counts = self.item_ids[np.maximum(rows, 0)], (rows >= 0).sum(axis=1)
        return Ranking(items, scores, counts, np.array(unknown, dtype=np.int64), popular)

    def allowed(self, allow: Iterable[int] | None = None, deny: Iterable[int] | None = None) -> np.ndarray | None:
        """Which catalogue rows may be recommended, bool [n_items]; None where all may.

        Ids that the catalogue does not hold are passed over.

        Raises:
            GenrecError: no item is left.
        """
        if allow is None and deny is None:
            return None
        mask = np.full(len(self.item_ids), allow is None)
        if allow is not None:
            mask[self._known_rows(list(allow))] = True
        if deny is not None:
            mask[self._known_rows(list(deny))] = False
        if not mask.any():
            raise GenrecError("the allow and deny lists leave no item of the catalogue; widen one of them")
        return mask

    def _beams(self, top_k: int, beams: int | None) -> int:
        if top_k < 1:
            raise GenrecError(f"top_k is {top_k}; ask for at least one item")
        if beams is not None and beams < top_k:
            raise GenrecError(f"{beams} beams cannot find {top_k} items; give at least as many beams as top_k")
        return min(beams or max(top_k, LEAST_BEAMS), self.trie.n_items)

    def _known_rows(self, history: Sequence[int]) -> np.ndarray:
        """Catalogue rows int64 of the known items, in order."""
        items = np.asarray(history, dtype=np.int64)
        place = np.minimum(np.searchsorted(self._sorted_ids, items), len(self._sorted_ids) - 1)
        return np.asarray(self._by_id[place[self._sorted_ids[place] == items]])

    def _batches(self, known: list[np.ndarray], users: int) -> Iterator[np.ndarray]:
        """Users with a history, those of equal padding together."""
        paddings = np.array([self._padding(len(history)) if len(history) else 0 for history in known], dtype=np.int64)
        for padding in np.unique(paddings[paddings > 0]).tolist():
            members = np.flatnonzero(paddings == padding)
            for first in range(0, len(members), users):
                yield members[first : first + users]

    def _padding(self, length: int) -> int:
        padding = _SHORTEST_PADDING
        while padding < length:
            padding *= 2
        return min(padding, self.max_history)

    def _padded(self, histories: list[np.ndarray]) -> HistoryBatch:
        """The batch, as wide as the padding of its first history; all share it."""
        batch = padded(histories, self.max_history)
        width = self._padding(len(histories[0])) - batch.rows.shape[1]
        return HistoryBatch(np.pad(batch.rows, ((0, 0), (0, width)), constant_values=-1), batch.lengths)

    def _fill_popular(
        self, rows: np.ndarray, scores: np.ndarray, popular: np.ndarray, allowed: np.ndarray | None
    ) -> None:
        """Give the most popular allowed items to the users that ``popular`` marks."""
        candidates = self.popular_rows if allowed is None else self.popular_rows[allowed[self.popular_rows]]
        first = candidates[: rows.shape[1]]
        users = np.flatnonzero(popular)
        rows[users, : len(first)] = first
        scores[users, : len(first)] = np.nan


def _neighbors(model_dir: Path, n_items: int) -> TextNeighbors | None:
    if not (model_dir / NEIGHBORS).is_file():
        return None
    rows, bonus = read_array(model_dir / NEIGHBORS), read_array(model_dir / NEIGHBOR_BONUS)
    if rows.shape != bonus.shape or len(rows) != n_items or rows.max(initial=0) >= n_items:
        raise GenrecError(f"{model_dir}: {NEIGHBORS} and {NEIGHBOR_BONUS} do not fit {n_items} items; export it again")
    return TextNeighbors(rows, bonus)


def _seen(histories: list[np.ndarray]) -> np.ndarray:
    """Distinct rows of each whole history, int32 [batch, most], -1 padded."""
    distinct = [np.unique(history) for history in histories]
    return padded(distinct, max(len(rows) for rows in distinct)).rows
