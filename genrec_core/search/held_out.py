"""Where constrained decoding ranks the held-out item of each user."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from genrec_core.cores import available_cores
from genrec_core.data.histories import padded
from genrec_core.data.split import HeldOut
from genrec_core.search.beams import CodeScorer
from genrec_core.search.generative import beam_search, unconstrained_top1
from genrec_core.search.trie import CodeTrie
from genrec_core.settings import EvaluationSettings

T = TypeVar("T")
OnProgress = Callable[[int, int], None]
LISTED_ITEMS = 100  # items of each user's list that are kept, for coverage
_MISS_BATCH_USERS = 64


@dataclass(frozen=True)
class TargetRanks:
    """The outcome of one decode a user.

    Args:
        history_removed: 0-based rank of the target once the history's items are taken out of the list, int32 [n];
            -1 where it is not among the first ``beams``. The headline.
        history_kept: the same with the history's items left in, int32 [n].
        listed: first items of each user's list, history taken out, int32 [n, LISTED_ITEMS or fewer]; -1 where shorter.
        beams: depth of both rankings.
    """

    history_removed: np.ndarray
    history_kept: np.ndarray
    listed: np.ndarray
    beams: int


def rank_test_items(
    scorer: CodeScorer,
    trie: CodeTrie,
    held_out: HeldOut,
    settings: EvaluationSettings,
    max_history: int,
    dense_weight: float = 0.0,
    on_progress: OnProgress | None = None,
) -> TargetRanks:
    """Rank the target of every user by one decode without exclusion.

    A batch is decoded with ``settings.beams`` beams and as many more as its longest history has items, so that the list
    is still ``settings.beams`` long after the whole history is taken out (not only the ``max_history`` items read).

    Args:
        scorer: the model.
        trie: the catalogue.
        held_out: histories and targets.
        settings: beams and users decoded together.
        max_history: newest items of a history that the model reads.
        dense_weight: as in :func:`~genrec_core.search.generative.beam_search`.
        on_progress: told the users done and all users, after every batch.
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
        listed[batch] = first_unseen(ranked.items, seen, listed.shape[1])
        return batch

    done = 0
    for batch in side_by_side(rank, length_batches(held_out, settings.batch_users), settings.workers):
        done += len(batch)
        if on_progress:
            on_progress(done, users)
    return TargetRanks(removed, kept, listed, beams)


def side_by_side(work: Callable[[np.ndarray], T], batches: Iterable[np.ndarray], workers: int | None) -> Iterator[T]:
    """The results of ``work`` in the order of ``batches``, several batches at once in threads.

    Whole batches side by side beat many threads inside one operator: nothing waits at a barrier, so a core that is busy
    elsewhere slows only its own batch. The scorer should use one thread an operator then.

    Args:
        work: what is done with a batch; NumPy, torch and onnxruntime let other threads run meanwhile.
        batches: user numbers of each batch.
        workers: threads; None for one a core that this process may use.
    """
    with ThreadPoolExecutor(workers or available_cores()) as pool:
        yield from pool.map(work, batches)


def length_batches(held_out: HeldOut, batch_users: int) -> Iterator[np.ndarray]:
    """User numbers, those of similar history length together; the longest first, so that memory peaks at the start."""
    order = np.argsort(-held_out.histories.lengths, kind="stable")
    for first in range(0, len(order), batch_users):
        yield order[first : first + batch_users]


def in_history(items: np.ndarray, histories: list[np.ndarray], n_items: int) -> np.ndarray:
    """Whether each listed item is in its user's history.

    Args:
        items: rows int32 [batch, k], -1 padded.
        histories: rows of each user, ragged.
        n_items: items in the catalogue.

    Returns:
        bool [batch, k]; false on padding.
    """
    user = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    keys = user * n_items + np.concatenate(histories).astype(np.int64)
    listed = np.arange(len(items))[:, None] * n_items + items
    return np.isin(listed, keys) & (items >= 0)


def target_ranks(items: np.ndarray, targets: np.ndarray, limit: int, removed: np.ndarray | None = None) -> np.ndarray:
    """0-based rank of each target, int32 [batch]; -1 where it is absent, removed, or not among the first ``limit``.

    Args:
        items: ranked rows int32 [batch, k], best first, -1 padded.
        targets: rows int32 [batch].
        limit: ranks from here on count as absent.
        removed: bool [batch, k], items that are taken out of the list before it is counted.
    """
    left = items >= 0 if removed is None else (items >= 0) & ~removed
    found = left & (items == targets[:, None])
    rank = (np.cumsum(left, axis=1) - 1)[np.arange(len(items)), found.argmax(axis=1)]
    return np.where(found.any(axis=1) & (rank < limit), rank, -1).astype(np.int32)


def first_unseen(items: np.ndarray, seen: np.ndarray, k: int) -> np.ndarray:
    """The first ``k`` items of each list that are not ``seen``, int32 [batch, k], -1 where there are fewer."""
    skipped = seen | (items < 0)
    order = np.argsort(skipped, axis=1, kind="stable")[:, :k]
    first = np.where(np.take_along_axis(skipped, order, axis=1), -1, np.take_along_axis(items, order, axis=1))
    return np.pad(first, ((0, 0), (0, k - first.shape[1])), constant_values=-1).astype(np.int32)


def recall_at_10(
    scorer: CodeScorer,
    trie: CodeTrie,
    held_out: HeldOut,
    *,
    beams: int,
    batch_users: int,
    max_history: int,
    dense_weight: float = 0.0,
) -> tuple[int, int]:
    """Users whose target is among the first ten items that they have not seen, and all users.

    Fast enough for every few epochs: the history is excluded within the search, which is ``beams`` wide.
    """
    hits = 0
    for batch in length_batches(held_out, batch_users):
        histories = [held_out.histories.of(int(user)) for user in batch]
        whole = max(len(history) for history in histories)
        ranked = beam_search(
            scorer,
            trie,
            padded(histories, max_history),
            beams=beams,
            top_k=10,
            excluded=padded(histories, whole).rows,
            dense_weight=dense_weight,
        )
        hits += int((ranked.items == held_out.targets[batch][:, None]).any(axis=1).sum())
    return hits, len(held_out.targets)


def miss_share(
    scorer: CodeScorer, trie: CodeTrie, held_out: HeldOut, max_history: int, workers: int | None = None
) -> float:
    """Share of users whose best code, decoded without the trie, is no item."""

    def missed(batch: np.ndarray) -> int:
        histories = padded([held_out.histories.of(int(user)) for user in batch], max_history)
        codes = unconstrained_top1(scorer, histories, trie.level_sizes)
        return int((trie.lookup(codes) < 0).sum())

    misses = sum(side_by_side(missed, length_batches(held_out, _MISS_BATCH_USERS), workers))
    return misses / len(held_out.targets)
