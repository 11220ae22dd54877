"""The rank of each user's held-out item in the lists of the search."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from genrec_core.cores import available_cores
from genrec_core.data.histories import padded
from genrec_core.data.split import HeldOut
from genrec_core.search.beams import CodeScorer
from genrec_core.search.generative import beam_search, unconstrained_top1
from genrec_core.search.trie import CodeTrie
from genrec_core.settings import EvaluationSettings

OnProgress = Callable[[int, int], None]
LISTED_ITEMS = 100  # of each user's list, kept to measure coverage
_MISS_BATCH_USERS = 64


@dataclass(frozen=True)
class TargetRanks:
    """0-based ranks of the targets of n users, int32 [n]; -1 if a target is not among the first ``beams`` items."""

    history_removed: np.ndarray  # in the list without the items of the user's history
    history_kept: np.ndarray  # in the list with these items
    listed: np.ndarray  # first items of each list that users get, int32 [n, at most LISTED_ITEMS], -1 padded
    beams: int  # length of the lists

    def of(self, exclude_seen: bool) -> np.ndarray:
        """The ranks in the lists without the user's history, or with it."""
        return self.history_removed if exclude_seen else self.history_kept


def rank_test_items(
    scorer: CodeScorer,
    trie: CodeTrie,
    held_out: HeldOut,
    settings: EvaluationSettings,
    max_history: int,
    dense_weight: float = 0.0,
    on_progress: OnProgress | None = None,
    exclude_seen: bool = True,
) -> TargetRanks:
    """Rank the target of each user by one search without exclusions.

    A batch is searched with ``settings.beams`` beams plus one for each item of its longest history. So the list still
    has ``settings.beams`` items after the whole history is removed. ``max_history`` counts the newest items that the
    model reads. ``on_progress`` is told the users done and all users, after each batch. ``exclude_seen`` says whether
    users get lists without the items of their history.
    """
    users, beams = len(held_out.targets), min(settings.beams, trie.n_items)
    removed, kept = np.full(users, -1, np.int32), np.full(users, -1, np.int32)
    listed = np.full((users, min(LISTED_ITEMS, beams)), -1, np.int32)

    def rank(batch: np.ndarray) -> np.ndarray:
        histories = [held_out.histories.of(int(user)) for user in batch]
        width = min(beams + max(len(history) for history in histories), trie.n_items)
        ranked = beam_search(
            scorer, trie, padded(histories, max_history), beams=width, top_k=width, dense_weight=dense_weight
        )
        seen = in_history(ranked.items, histories, trie.n_items)
        removed[batch] = target_ranks(ranked.items, held_out.targets[batch], beams, seen)
        kept[batch] = target_ranks(ranked.items, held_out.targets[batch], beams)
        listed[batch] = first_unseen(ranked.items, seen & exclude_seen, listed.shape[1])
        return batch

    done = 0
    # Batches side by side are faster than many threads inside one operator, because no thread waits at a barrier.
    with ThreadPoolExecutor(settings.workers or available_cores()) as pool:
        for batch in pool.map(rank, length_batches(held_out, settings.batch_users)):
            done += len(batch)
            if on_progress:
                on_progress(done, users)
    return TargetRanks(removed, kept, listed, beams)


def length_batches(held_out: HeldOut, batch_users: int) -> Iterator[np.ndarray]:
    """User numbers in batches of similar history length, the longest first, so that memory peaks at the start."""
    order = np.argsort(-held_out.histories.lengths, kind="stable")
    for first in range(0, len(order), batch_users):
        yield order[first : first + batch_users]


def in_history(items: np.ndarray, histories: list[np.ndarray], n_items: int) -> np.ndarray:
    """Whether each of ``items``, int32 [batch, k], -1 padded, is in its user's history, bool [batch, k]."""
    user = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    keys = user * n_items + np.concatenate(histories).astype(np.int64)
    listed = np.arange(len(items))[:, None] * n_items + items
    return np.isin(listed, keys) & (items >= 0)


def target_ranks(items: np.ndarray, targets: np.ndarray, limit: int, removed: np.ndarray | None = None) -> np.ndarray:
    """0-based rank of each target, int32 [batch]; -1 if it is not among the first ``limit`` items of the list.

    ``items`` are catalogue rows int32 [batch, k], best first, -1 padded. Those that are ``removed``, bool [batch, k],
    do not count.
    """
    left = items >= 0 if removed is None else (items >= 0) & ~removed
    is_target = left & (items == targets[:, None])
    rank = (np.cumsum(left, axis=1) - 1)[np.arange(len(items)), is_target.argmax(axis=1)]
    return np.where(is_target.any(axis=1) & (rank < limit), rank, -1).astype(np.int32)


def first_unseen(items: np.ndarray, seen: np.ndarray, k: int) -> np.ndarray:
    """The first ``k`` items of each list that are not ``seen``, int32 [batch, k], -1 padded."""
    skipped = seen | (items < 0)
    order = np.argsort(skipped, axis=1, kind="stable")[:, :k]
    first = np.where(np.take_along_axis(skipped, order, axis=1), -1, np.take_along_axis(items, order, axis=1))
    return np.pad(first, ((0, 0), (0, k - first.shape[1])), constant_values=-1).astype(np.int32)


def ranks_in_ten(
    scorer: CodeScorer,
    trie: CodeTrie,
    held_out: HeldOut,
    beams: int,
    batch_users: int,
    max_history: int,
    dense_weight: float = 0.0,
    exclude_seen: bool = True,
) -> np.ndarray:
    """0-based rank of each target among the first ten items, int32 [n]; -1 beyond.

    With ``exclude_seen`` the items of the user's history do not count.
    """
    ranks = np.full(len(held_out.targets), -1, dtype=np.int32)
    for batch in length_batches(held_out, batch_users):
        histories = [held_out.histories.of(int(user)) for user in batch]
        seen = padded(histories, max(map(len, histories))).rows
        ranked = beam_search(
            scorer,
            trie,
            padded(histories, max_history),
            beams=beams,
            top_k=10,
            excluded=seen if exclude_seen else None,
            dense_weight=dense_weight,
        )
        ranks[batch] = target_ranks(ranked.items, held_out.targets[batch], 10)
    return ranks


def miss_share(
    scorer: CodeScorer, trie: CodeTrie, held_out: HeldOut, max_history: int, workers: int | None = None
) -> float:
    """Share of users whose best code, decoded without the trie, is not the code of an item."""

    def decode(batch: np.ndarray) -> np.ndarray:
        histories = padded([held_out.histories.of(int(user)) for user in batch], max_history)
        return unconstrained_top1(scorer, histories, trie.level_sizes)

    with ThreadPoolExecutor(workers or available_cores()) as pool:
        codes = np.concatenate(list(pool.map(decode, length_batches(held_out, _MISS_BATCH_USERS))))
    return float((trie.lookup(codes) < 0).mean())
