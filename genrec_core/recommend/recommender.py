"""The recommender without torch: item-id histories in, ranked item ids out."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np

from genrec_core.bundle.item_attributes import ItemAttributes
from genrec_core.bundle.item_details import ItemDetails
from genrec_core.bundle.item_table import ItemTable, title_without
from genrec_core.bundle.model_folder import ITEMS, ModelFolder
from genrec_core.bundle.onnx_scorer import OnnxScorer, require_self_test
from genrec_core.cores import available_cores
from genrec_core.data.histories import padded
from genrec_core.data.ids import AnyId, are_text, item_ids_of
from genrec_core.data.lengths import length_class
from genrec_core.data.split import popularity_order
from genrec_core.errors import GenrecError
from genrec_core.recommend import frames
from genrec_core.recommend.constraints import CatalogueMasks, Constraints, Selection
from genrec_core.recommend.explain import Explanation, Model, explain_rows
from genrec_core.recommend.frames import Frame, FrameKind
from genrec_core.recommend.item_facts import FactsByRow, ItemFacts
from genrec_core.recommend.item_rows import ItemRows
from genrec_core.recommend.similar import Directions, Similar, SimilarBy, best_rows, most_shared_levels
from genrec_core.releases.pointer import release_in
from genrec_core.search.beams import CodeScorer, Ranked
from genrec_core.search.generative import RankingWeights, beam_search
from genrec_core.search.trie import CodeTrie
from genrec_core.settings import Fallback, RankingChoice
from genrec_core.storage.artifacts import verify_manifest

LEAST_BEAMS = 50
_BATCH_BEAMS = 1 << 11  # users x beams decoded together, at most: the arrays of a step should fit a core's cache


class InTurn:
    """A pool without threads: it makes one call after the other."""

    map = staticmethod(map)


IN_TURN = InTurn()  # for a process that shares the cores with others
Pool = Executor | InTurn


@dataclass(frozen=True)
class Ranking:
    """The list of each user."""

    items: np.ndarray  # item ids, int64 or text [users, k], best first; entries from ``counts`` on mean nothing
    scores: np.ndarray  # log-probabilities float32 [users, k], -inf where there is no item and NaN in a fallback list
    counts: np.ndarray  # items of each user's list, int64 [users]; fewer than k where no more may be recommended
    unknown: np.ndarray  # items of each history that the catalogue does not hold and that were dropped, int64 [users]
    popular: np.ndarray  # users without any known item, who get the popular items or another fallback, bool [users]

    def of(self, user: int) -> np.ndarray:
        """The item ids of one user, best first, int64 or text [at most k]."""
        return self.items[user, : self.counts[user]]


class Recommender:
    """Ranks the catalogue for histories.

    Args:
        scorer: the ONNX or torch model.
        item_ids: the data set's id by catalogue row, int64 or text [n_items], in any order.
        codes: semantic IDs with suffix by catalogue row, int [n_items, depth].
        level_sizes: vocabulary by level.
        popularity: training interactions by catalogue row, int64 [n_items].
        max_history: newest items of a history that the model reads.
        weights: how the model ranks.
        table: reads the catalogue's columns, once, for rules, titles and searches; a model without takes no rules.
        withdrawn: see :class:`~genrec_core.recommend.constraints.CatalogueMasks`.
        details: what explanations show beside the model's scores, and what similar items are compared by.
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
        table: Callable[[], ItemTable] | None = None,
        withdrawn: Sequence[AnyId] = (),
        details: ItemDetails | None = None,
    ) -> None:
        self.weights, self.scorer, self.item_ids, self.max_history = weights, scorer, item_ids, max_history
        self.trie = CodeTrie.build(codes, level_sizes)
        self.popular_rows, self._popularity = popularity_order(popularity), popularity
        self.fallback_rows = cache(self._fallback_rows)
        self.text_ids = are_text(item_ids)
        self._each_row = ItemRows(item_ids).of
        # The class of each length; -1 for an empty history.
        self._length_classes = np.array([-1, *(length_class(1 + more, max_history) for more in range(max_history))])
        self._table, self.details = table and cache(table), details or ItemDetails()
        self.masks = CatalogueMasks(len(item_ids), self._rows_of, self._attributes, withdrawn)

    @classmethod
    def open(cls, model_dir: Path | str | None = None) -> "Recommender":
        """Open an exported model; verify its files, and that this processor computes the answers stored in it.

        Args:
            model_dir: see :func:`genrec_core.releases.pointer.release_in`; None: the release that is served.

        Raises:
            GenrecError: there is no such model, it is damaged, or this processor computes other answers.
        """
        model_dir = release_in(model_dir)
        verify_manifest(model_dir)
        folder = ModelFolder(model_dir)
        settings, items = folder.settings, folder.items()
        scorer = OnnxScorer(folder, items)
        require_self_test(model_dir, scorer)
        weights = RankingWeights(
            settings.dense, settings.hybrid_weight, settings.ranking, exclude_seen=settings.exclude_seen
        )
        return cls(
            scorer, items.item_ids, items.codes, settings.level_sizes, items.popularity, settings.max_history, weights,
            table=partial(ItemTable.load, model_dir, items.item_ids) if folder.takes_rules else None,
            withdrawn=folder.withdrawn(), details=ItemDetails.load(model_dir, items),
        )  # fmt: skip

    @overload
    def recommend(
        self,
        histories: Frame,
        k: int = 10,
        beams: int | None = None,
        exclude_seen: bool | None = None,
        ranking: RankingChoice = "auto",
        allow: Iterable[AnyId] | None = None,
        deny: Iterable[AnyId] | None = None,
        rule: str | None = None,
        fallback: Fallback = "popular",
    ) -> Frame: ...

    @overload
    def recommend(
        self,
        histories: Sequence[Sequence[AnyId]],
        k: int = 10,
        beams: int | None = None,
        exclude_seen: bool | None = None,
        ranking: RankingChoice = "auto",
        allow: Iterable[AnyId] | None = None,
        deny: Iterable[AnyId] | None = None,
        rule: str | None = None,
        fallback: Fallback = "popular",
    ) -> list[np.ndarray]: ...

    def recommend(
        self,
        histories: Any,
        k: int = 10,
        beams: int | None = None,
        exclude_seen: bool | None = None,
        ranking: RankingChoice = "auto",
        allow: Iterable[AnyId] | None = None,
        deny: Iterable[AnyId] | None = None,
        rule: str | None = None,
        fallback: Fallback = "popular",
    ) -> Any:
        """At most ``k`` items for each history, best first.

        Args:
            histories: a list of item ids for each user, oldest first; or a frame of polars or pandas, for which see
                :func:`genrec_core.recommend.frames.read_histories`.
            beams, exclude_seen, ranking, fallback: see :meth:`rank`.
            allow, deny, rule: see :meth:`allowed`.

        Returns:
            An array of item ids for each list [at most k]. For a frame, a frame of the same kind with ``user_id``,
            ``rank`` (from 1), ``item_id``, ``score`` (log-probability; missing in the fallback list of users without
            a known item), and ``title`` if the model holds its catalogue.
        """
        table = frames.read_histories(histories, self.text_ids) if frames.is_frame(histories) else None
        lists_of = table.histories if table else histories
        frames.require_lists(lists_of)
        allowed = self.allowed(allow, deny, rule)
        options: dict[str, Any] = {
            "beams": beams,
            "exclude_seen": exclude_seen,
            "ranking": ranking,
            "fallback": fallback,
        }
        lists = self.rank(lists_of, k, **options, allowed=allowed)
        if table is None:
            return [lists.of(user) for user in range(len(lists_of))]
        columns = frames.list_columns(table.users, lists.items, lists.scores, lists.counts)
        return frames.frame_of(self._with_titles(columns), frames.kind_of(histories))

    def frame(self, answer: Similar | Sequence[Explanation] | Sequence[ItemFacts], kind: FrameKind = "polars") -> Any:
        """An answer of :meth:`similar`, :meth:`explain` or :meth:`describe` as a frame of polars or pandas.

        There is a row for each item, of explanations one for each reason; titles stand beside the ids if the model
        holds its catalogue.
        """
        return frames.frame_of(frames.answer_columns(answer, self._titles if self._table else None), kind)

    def _titles(self, items: Sequence[AnyId]) -> list[str]:
        return [facts.title for facts in self.describe(items)]

    def _with_titles(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Columns that have ``item_id``, and ``title`` beside them if the model holds its catalogue."""
        if self._table is None:
            return columns
        return {**columns, "title": self._titles(columns["item_id"])}

    def rank(
        self,
        histories: Sequence[Sequence[AnyId]],
        top_k: int,
        *,
        beams: int | None = None,
        exclude_seen: bool | None = None,
        ranking: RankingChoice = "auto",
        allowed: np.ndarray | Sequence[np.ndarray | None] | None = None,
        batch_users: int = 64,
        pool: Pool | None = None,
        fallback: Fallback = "popular",
    ) -> Ranking:
        """Rank the catalogue for each history. A user's list does not depend on the other users of a batch.

        A user without any known item gets the items of ``fallback``. At most ``batch_users`` are searched at once.

        Args:
            histories: item ids of each user, oldest first; unknown ones are dropped.
            top_k: items a user.
            beams: beams of the search, at least ``top_k``; None for ``top_k``, and at least 50. Filters are exact masks
                inside the search, so that ``top_k`` beams always find ``top_k`` items if there are as many.
            exclude_seen: leave out all items of the user's own history; None for what the training chose.
            ranking: as in :class:`~genrec_core.settings.PredictionSettings`. A model without a dense head knows only
                ``generative``; ``hybrid`` and ``auto`` then mean the same.
            allowed: see :meth:`allowed`; a mask for everyone, or one for each user. Users with the very same mask are
                decoded together. Withdrawn items are left out in any case.
            pool: decodes the batches, in parallel if it has several threads; None for one thread a core.
            fallback: ``popular``, the items bought most in the training part; ``recent``, those bought most in its last
                days; or ``new``, added items and those first bought last. An error where the model holds no times.
        """
        beams, ordered = self._beams(top_k, beams), self.fallback_rows(fallback)
        known, masks = self._known(histories), self._masks(allowed, len(histories))
        lengths = np.array([len(history) for history in known], dtype=np.int64)
        batches = self._batches(lengths, masks, min(batch_users, max(1, _BATCH_BEAMS // beams)))
        alone = pool is None and len(batches) < 2

        decode = partial(
            self._decode,
            known,
            masks,
            alone=alone,
            exclude_seen=self.excludes_seen(exclude_seen),
            beams=beams,
            top_k=min(top_k, self.trie.n_items),
            dense_weight=self.weights.of(ranking),
        )
        rows = np.full((len(histories), top_k), -1, dtype=np.int32)
        scores = np.full(rows.shape, -np.inf, dtype=np.float32)
        used_pool = IN_TURN if alone else pool or self._pool
        for users, ranked in zip(batches, used_pool.map(decode, batches), strict=True):
            rows[users, : ranked.items.shape[1]] = ranked.items
            scores[users, : ranked.items.shape[1]] = ranked.scores
        popular = lengths == 0
        _fill(rows, scores, popular, masks, ordered)
        unknown = np.array([len(history) for history in histories], dtype=np.int64) - lengths
        items, counts = self.item_ids.take(rows), (rows >= 0).sum(axis=1)  # row -1 stands for no item
        return Ranking(items, scores, counts, unknown, popular)

    def _fallback_rows(self, fallback: Fallback) -> np.ndarray:
        """Catalogue rows in the order in which users without a known item get them, int64 [n_items].

        ``popular``: the items bought most in the training part. ``recent``: those bought most in its last days.
        ``new``: added items, then those that were first bought last; those that nobody bought come last. Of equals the
        more popular comes first. The last two are an error where the model holds no times.
        """
        if fallback == "popular":
            return self.popular_rows
        order = self.details.recent if fallback == "recent" else self.details.first_seen
        if order is None:
            again = "choose popular, or export a model of data with times"
            raise GenrecError(f"fallback {fallback}: the model holds no times of its training part; {again}")
        return np.lexsort((-self._popularity, -order.clip(min=-1 << 62)))

    def excludes_seen(self, asked: bool | None) -> bool:
        """Whether lists leave out the items of the user's history; what is asked for goes before the model's choice."""
        return self.weights.exclude_seen if asked is None else asked

    def allowed(
        self, allow: Iterable[AnyId] | None = None, deny: Iterable[AnyId] | None = None, rule: str | None = None
    ) -> np.ndarray | None:
        """The mask of catalogue rows that may be recommended; equal constraints give the same. Skips unknown ids."""
        return self.selection(Constraints.of(allow, deny, rule)).mask

    def selection(self, *constraints: Constraints) -> Selection:
        """See :meth:`genrec_core.recommend.constraints.CatalogueMasks.selection`."""
        return self.masks.selection(*constraints)

    def explain(
        self,
        history: Sequence[AnyId],
        items: Sequence[AnyId],
        *,
        ranking: RankingChoice = "auto",
        reasons: int = 3,
        exclude_seen: bool | None = None,
    ) -> list[Explanation]:
        """Why each of ``items`` is recommended to a user with this history, whether or not it is in the list.

        Scores are those of :meth:`rank` with the same options, and effects are their differences. In a catalogue of
        which not every item is scored, they are the scores of lists of up to 256 items without a mask.

        Args:
            history: item ids, oldest first; unknown ones are dropped. If none is left, there are neither scores nor
                reasons: the user gets a list that does not depend on the user.
            items: ids of the model's items; an unknown one is an error.
            ranking, exclude_seen: as in :meth:`rank`.
            reasons: items of the history in each explanation, at most.
        """
        if reasons < 0:
            raise GenrecError(f"reasons is {reasons}; ask for 0 or more")
        rows = self._each_row([items])
        if (rows < 0).any():
            unknown = items[int((rows < 0).argmax())]
            raise GenrecError(
                f"item {unknown} is not in the model, so nothing explains it; ask for an item of the model"
            )
        model = Model(self.scorer, self.trie, self.weights, self.max_history, self.item_ids, self.details)
        return explain_rows(
            model, self._rows_of(history), rows, mode=self.weights.mode(ranking), reasons=reasons,
            allowed=self.masks.available, exclude_seen=self.excludes_seen(exclude_seen),
        )  # fmt: skip

    def similar(
        self, items: Sequence[AnyId], k: int, *, by: SimilarBy = "model", allowed: np.ndarray | None = None
    ) -> Similar:
        """The items most like ``items``, without these and without withdrawn ones; unknown ids are dropped.

        All items are compared, so time grows with the catalogue. Of equals the earlier item comes first.

        Args:
            k: items of the answer; fewer if not so many are left.
            by: ``model`` compares the keys of the dense head: items that follow the same histories; ``text`` compares
                the texts. Both take the cosine with the mean direction of ``items``. ``codes`` counts how many first
                numbers of the semantic ID are the same as one of ``items`` has; of equals those like the dense head's
                keys come first, where the model has a dense head.
            allowed: see :meth:`allowed`; None for all.
        """
        if k < 1:
            raise GenrecError(f"k is {k}; ask for at least one item")
        rows = self._rows_of(items)
        if not len(rows):
            raise GenrecError("none of the items is in the model, so nothing is similar; give the ids of its items")
        scores, order = self._similarities(rows, by)
        mask = self.masks.without_withdrawn(allowed)
        open_ = np.ones(len(self.item_ids), dtype=bool) if mask is None else mask.copy()
        open_[rows] = False
        best = best_rows(order, open_, k)
        return Similar(self.item_ids.take(best), scores.take(best).astype(np.float32))

    def _similarities(self, rows: np.ndarray, by: SimilarBy) -> tuple[np.ndarray, np.ndarray]:
        """The score of each item, and what orders the items: both floats [n_items]."""
        compared = self._directions.get("text" if by == "text" else "model")
        if by == "codes":
            shared = most_shared_levels(self.trie, rows)
            return shared, shared + (0 if compared is None else compared.cosines(rows) / 4)  # a cosine is 1 at most
        if compared is None:
            missing = "text vectors; choose by model" if by == "text" else "dense head; choose by text or by codes"
            raise GenrecError(f"similar by {by}: this model has no {missing}")
        cosines = compared.cosines(rows)
        return cosines, cosines

    @cached_property
    def _directions(self) -> dict[SimilarBy, Directions]:
        """What items are compared by."""
        keys = self.details.keys if self.weights.dense else None
        vectors: dict[SimilarBy, Any] = {"model": keys, "text": self.details.texts}
        return {by: Directions(of_items) for by, of_items in vectors.items() if of_items is not None}

    def example_histories(self) -> list[list[AnyId]]:
        """Some histories of the training part that are stored with the model, oldest first; there may be none."""
        stored = self.details.examples
        return [] if stored is None else [self.item_ids.take(rows[rows >= 0]).tolist() for rows in stored]

    def describe(self, items: Sequence[AnyId]) -> list[ItemFacts]:
        """Title, brand, categories and price of each item; of one that the model does not hold, a title from its id."""
        rows = self._each_row([items]).tolist()
        return [
            self._facts.of(row) if row >= 0 else ItemFacts(item, title_without(item))
            for item, row in zip(items, rows, strict=True)
        ]

    def find(self, query: str, k: int, *, allowed: np.ndarray | None = None) -> list[AnyId]:
        """The ids of at most ``k`` items that a query names, best first.

        Each word of the query begins a word of the title; case and accents do not matter. Of these items the more
        popular come first. An item whose id the query is comes before all. An empty query gives the most popular items.

        Args:
            allowed: see :meth:`allowed`; None for every item, withdrawn ones too, as histories hold them.
        """
        if k < 1:
            raise GenrecError(f"k is {k}; ask for at least one item")
        rows = self._facts.find(query, k, self._row_named(query.strip()), allowed)
        ids: list[AnyId] = self.item_ids.take(rows).tolist()
        return ids

    def _row_named(self, text: str) -> int:
        """The row of the item whose id is ``text``; -1 if there is none."""
        with suppress(GenrecError):  # no id
            return int(self._each_row([item_ids_of([text], self.text_ids)])[0])
        return -1

    @cached_property
    def _facts(self) -> FactsByRow:
        return FactsByRow(self._table() if self._table else ItemTable.of(self.item_ids, {}), self.popular_rows)

    def _attributes(self) -> ItemAttributes:
        if self._table is None:
            again = "export the model again with its catalogue (genrec export --catalog, or the asset onnx_encoder)"
            raise GenrecError(f"the model holds no catalogue ({ITEMS}), which rules need; {again}")
        return ItemAttributes(self._table())

    @cached_property
    def _pool(self) -> Executor:
        return ThreadPoolExecutor(available_cores(), thread_name_prefix="decode")

    def _masks(self, allowed: np.ndarray | Sequence[np.ndarray | None] | None, users: int) -> list[np.ndarray | None]:
        """The mask of each user without the withdrawn items; the same object for users who share one."""
        if allowed is None or isinstance(allowed, np.ndarray):
            return [self.masks.without_withdrawn(allowed)] * users
        if len(allowed) != users:
            raise GenrecError(f"{len(allowed)} masks for {users} users; give one for each, or one for all")
        distinct = {id(mask): self.masks.without_withdrawn(mask) for mask in allowed}
        return [distinct[id(mask)] for mask in allowed]

    def _beams(self, top_k: int, beams: int | None) -> int:
        if top_k < 1:
            raise GenrecError(f"top_k is {top_k}; ask for at least one item")
        if beams is not None and beams < top_k:
            raise GenrecError(f"{beams} beams cannot find {top_k} items; give at least as many beams as top_k")
        return min(beams or max(top_k, LEAST_BEAMS), self.trie.n_items)

    def _rows_of(self, items: Sequence[AnyId]) -> np.ndarray:
        return self._known([items])[0]

    def _known(self, histories: Sequence[Sequence[AnyId]]) -> list[np.ndarray]:
        """Catalogue rows int64 of the known items of each history, in order."""
        ends = np.cumsum([0, *map(len, histories)])
        rows = self._each_row(histories)
        known = rows >= 0
        rows, bounds = rows[known], np.concatenate([[0], known.cumsum()]).take(ends).tolist()
        return [rows[begin:end] for begin, end in pairwise(bounds)]

    def _batches(self, lengths: np.ndarray, masks: list[np.ndarray | None], users: int) -> list[np.ndarray]:
        """Users with a history, by mask and similar length; the slowest batches first, the longest history last."""
        groups: dict[tuple[int, int], list[int]] = {}
        order = lengths.argsort(kind="stable")
        classes = self._length_classes.take(lengths.take(order), mode="clip").tolist()
        for user, its_class in zip(order.tolist(), classes, strict=True):
            if its_class >= 0:
                groups.setdefault((its_class, id(masks[user])), []).append(user)
        batches = [
            np.array(group[first : first + users]) for group in groups.values() for first in range(0, len(group), users)
        ]
        return sorted(batches, key=lambda batch: -int(lengths[batch[-1]]))

    def _decode(
        self,
        known: list[np.ndarray],
        masks: list[np.ndarray | None],
        users: np.ndarray,
        *,
        alone: bool,
        exclude_seen: bool,
        **options: Any,
    ) -> Ranked:
        """The search for one batch of ``users``, who share a mask."""
        batch = [known[user] for user in users.tolist()]
        read, longest = padded(batch, self.max_history, alone), len(batch[-1])
        seen = read if longest <= self.max_history else padded(batch, longest)
        excluded = seen.rows if exclude_seen else None
        return beam_search(self.scorer, self.trie, read, allowed=masks[users[0]], excluded=excluded, **options)


def _fill(
    rows: np.ndarray,
    scores: np.ndarray,
    users: np.ndarray,
    masks: list[np.ndarray | None],
    ordered: np.ndarray,
) -> None:
    """Give the first allowed of the ``ordered`` rows to the users that ``users``, bool [batch], marks."""
    for user in users.nonzero()[0].tolist():
        mask = masks[user]
        candidates = ordered if mask is None else ordered[mask[ordered]]
        first = candidates[: rows.shape[1]]
        rows[user, : len(first)] = first
        scores[user, : len(first)] = np.nan
