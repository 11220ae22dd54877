"""Ranks from one wide decode against scoring every item of every user."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_core.data.histories import Histories, padded
from genrec_core.data.split import HeldOut
from genrec_core.search.beams import CodeScorer
from genrec_core.search.generative import exact_scores
from genrec_core.search.held_out import (
    first_unseen,
    in_history,
    length_batches,
    miss_share,
    rank_test_items,
    ranks_in_ten,
    target_ranks,
)
from genrec_core.search.trie import CodeTrie
from genrec_core.settings import EvaluationSettings

N_ITEMS, LEVEL_SIZES, MAX_HISTORY = 60, (4, 5, 6), 5
MakeScorer = Callable[[tuple[int, ...], int, int], CodeScorer]


def random_held_out(users: int, longest: int, seed: int) -> HeldOut:
    random = np.random.default_rng(seed)
    sequences = [random.permutation(N_ITEMS)[: random.integers(2, longest + 1)] for _ in range(users)]
    offsets = np.concatenate([[0], np.cumsum([len(sequence) - 1 for sequence in sequences])]).astype(np.int64)
    rows = np.concatenate([sequence[:-1] for sequence in sequences]).astype(np.int32)
    targets = np.array([sequence[-1] for sequence in sequences], dtype=np.int32)
    return HeldOut(Histories([str(u) for u in range(users)], rows, offsets), targets, np.arange(users))


@pytest.fixture
def trie() -> CodeTrie:
    every = np.stack(np.meshgrid(*map(np.arange, LEVEL_SIZES), indexing="ij"), axis=-1).reshape(-1, len(LEVEL_SIZES))
    return CodeTrie.build(np.random.default_rng(1).permutation(every)[:N_ITEMS], LEVEL_SIZES)


@pytest.fixture
def scorer(table_scorer: MakeScorer) -> CodeScorer:
    return table_scorer(LEVEL_SIZES, N_ITEMS, 3)


def lists_by_hand(scorer: CodeScorer, trie: CodeTrie, held_out: HeldOut) -> list[list[int]]:
    """Every user's whole catalogue, best first, by scoring each item; ties by the trie's leaf order."""
    histories = padded([held_out.histories.of(user) for user in range(len(held_out.targets))], MAX_HISTORY)
    scores = exact_scores(scorer, trie, histories)
    return [sorted(range(N_ITEMS), key=lambda row: (-of_user[row], trie.row_leaf[row])) for of_user in scores]


def position(items: list[int], target: int, limit: int) -> int:
    return items.index(target) if target in items[:limit] else -1


@pytest.mark.parametrize("beams", [N_ITEMS, 5000])
def test_ranks_equal_exact_scoring_where_the_beams_hold_the_catalogue(
    scorer: CodeScorer, trie: CodeTrie, beams: int
) -> None:
    held_out = random_held_out(users=23, longest=30, seed=0)
    ranks = rank_test_items(scorer, trie, held_out, EvaluationSettings(beams=beams, batch_users=7), MAX_HISTORY)
    assert ranks.beams == N_ITEMS
    for user, items in enumerate(lists_by_hand(scorer, trie, held_out)):
        seen = set(held_out.histories.of(user).tolist())
        unseen = [row for row in items if row not in seen]
        assert ranks.history_kept[user] == position(items, held_out.targets[user], N_ITEMS)
        assert ranks.history_removed[user] == position(unseen, held_out.targets[user], N_ITEMS)
        assert ranks.listed[user].tolist() == unseen + [-1] * len(seen)
    settings = EvaluationSettings(beams=beams, batch_users=7)
    keeping = rank_test_items(scorer, trie, held_out, settings, MAX_HISTORY, exclude_seen=False)
    assert keeping.listed.tolist() == lists_by_hand(scorer, trie, held_out)


def test_a_narrow_list_is_full_after_the_whole_history_is_taken_out(scorer: CodeScorer, trie: CodeTrie) -> None:
    """Also where the history is longer than what the model reads of it."""
    held_out = random_held_out(users=30, longest=40, seed=1)
    assert held_out.histories.lengths.max() > 4 * MAX_HISTORY
    ranks = rank_test_items(scorer, trie, held_out, EvaluationSettings(beams=12, batch_users=1), MAX_HISTORY)
    assert ranks.listed.shape == (30, 12)
    assert (ranks.listed >= 0).all()
    for user, items in enumerate(ranks.listed):
        assert not np.isin(items, held_out.histories.of(user)).any()
        assert len(np.unique(items)) == 12
        assert ranks.history_removed[user] == position(items.tolist(), held_out.targets[user], 12)
    assert ranks.history_kept.max() < 12


def test_progress_ends_with_all_users(scorer: CodeScorer, trie: CodeTrie) -> None:
    held_out, seen = random_held_out(users=10, longest=8, seed=2), []
    settings = EvaluationSettings(beams=10, batch_users=4)
    rank_test_items(scorer, trie, held_out, settings, MAX_HISTORY, 0.0, lambda done, all_: seen.append((done, all_)))
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_batches_hold_every_user_once_the_longest_histories_first() -> None:
    held_out = random_held_out(users=11, longest=20, seed=3)
    order = np.concatenate(list(length_batches(held_out, 4)))
    assert sorted(order.tolist()) == list(range(11))
    assert (np.diff(held_out.histories.lengths[order]) <= 0).all()


def test_validation_ranks_the_targets_among_ten_unseen_items(scorer: CodeScorer, trie: CodeTrie) -> None:
    held_out = random_held_out(users=40, longest=30, seed=4)
    ranks = ranks_in_ten(scorer, trie, held_out, beams=N_ITEMS, batch_users=16, max_history=MAX_HISTORY)
    expected = []
    for user, items in enumerate(lists_by_hand(scorer, trie, held_out)):
        unseen = [row for row in items if row not in held_out.histories.of(user)][:10]
        expected.append(unseen.index(held_out.targets[user]) if held_out.targets[user] in unseen else -1)
    assert ranks.tolist() == expected
    assert 0 < (ranks >= 0).sum() < 40
    kept = ranks_in_ten(scorer, trie, held_out, N_ITEMS, 16, MAX_HISTORY, exclude_seen=False)
    lists = lists_by_hand(scorer, trie, held_out)
    assert kept.tolist() == [position(items, held_out.targets[user], 10) for user, items in enumerate(lists)]


def test_a_miss_is_a_best_code_that_no_item_has(scorer: CodeScorer, trie: CodeTrie) -> None:
    held_out = random_held_out(users=50, longest=6, seed=5)
    every = np.stack(np.meshgrid(*map(np.arange, LEVEL_SIZES), indexing="ij"), axis=-1).reshape(-1, len(LEVEL_SIZES))
    assert miss_share(scorer, CodeTrie.build(every, LEVEL_SIZES), held_out, MAX_HISTORY) == 0
    assert 0.2 < miss_share(scorer, trie, held_out, MAX_HISTORY) < 0.8  # half of all codes are items


ragged = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=5)


@given(ragged, st.integers(0, 2**16), st.integers(1, 12))
@settings(max_examples=100)
def test_counting_in_a_list_equals_a_loop(histories: list[list[int]], seed: int, limit: int) -> None:
    random = np.random.default_rng(seed)
    items = np.stack([random.permutation(10)[:8] for _ in histories]).astype(np.int32)
    items[:, 8 - random.integers(0, 4) :] = -1
    targets = random.integers(0, 10, len(histories)).astype(np.int32)
    seen = in_history(items, [np.array(history, dtype=np.int32) for history in histories], 10)
    removed, kept, first = target_ranks(items, targets, limit, seen), target_ranks(items, targets, limit), []
    for user, history in enumerate(histories):
        listed = [row for row in items[user].tolist() if row >= 0]
        unseen = [row for row in listed if row not in history]
        assert kept[user] == position(listed, targets[user], limit)
        assert removed[user] == position(unseen, targets[user], limit)
        first.append((unseen + [-1] * limit)[:limit])
    np.testing.assert_array_equal(first_unseen(items, seen, limit), first)
