"""The popularity baseline against a loop that builds every user's list."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_core.data.histories import Histories, padded
from genrec_core.data.split import HeldOut, popularity_order, training_counts
from genrec_core.errors import GenrecError
from genrec_core.evaluation.baselines import NeighborScorer, popularity
from genrec_core.search.neighbors import Neighbors

N_ITEMS = 12


def as_histories(sequences: list[list[int]]) -> Histories:
    offsets = np.concatenate([[0], np.cumsum([len(sequence) for sequence in sequences])]).astype(np.int64)
    rows = np.array([row for sequence in sequences for row in sequence], dtype=np.int32)
    return Histories([f"u{number}" for number in range(len(sequences))], rows, offsets)


def as_held_out(sequences: list[list[int]]) -> HeldOut:
    """The last item of each sequence is the target."""
    targets = np.array([sequence[-1] for sequence in sequences], dtype=np.int32)
    return HeldOut(as_histories([sequence[:-1] for sequence in sequences]), targets, np.arange(len(sequences)))


items = st.integers(0, N_ITEMS - 1)
sequences_of_users = st.lists(st.lists(items, min_size=2, max_size=15), min_size=1, max_size=8)
counts_of_items = st.lists(st.integers(0, 3), min_size=N_ITEMS, max_size=N_ITEMS)


def list_by_hand(counts: list[int], history: list[int]) -> list[int]:
    ranked = sorted(range(N_ITEMS), key=lambda row: (-counts[row], row))
    return [row for row in ranked if row not in history]


@given(sequences_of_users, counts_of_items, st.integers(1, N_ITEMS + 3))
def test_ranks_equal_a_loop_that_builds_each_list(sequences: list[list[int]], counts: list[int], limit: int) -> None:
    expected = []
    for *history, target in sequences:
        shown = list_by_hand(counts, history)[:limit]
        expected.append(shown.index(target) if target in shown else -1)
    np.testing.assert_array_equal(popularity(np.array(counts), as_held_out(sequences), limit)[0], expected)


@given(sequences_of_users, counts_of_items, st.integers(1, N_ITEMS + 3))
@settings(max_examples=60)
def test_lists_equal_a_loop_that_builds_each_list(sequences: list[list[int]], counts: list[int], k: int) -> None:
    expected = [(list_by_hand(counts, history)[:k] + [-1] * k)[:k] for *history, _ in sequences]
    np.testing.assert_array_equal(popularity(np.array(counts), as_held_out(sequences), k)[1], expected)


def test_lists_are_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    held_out = as_held_out([random.integers(0, N_ITEMS, random.integers(2, 9)).tolist() for _ in range(11)])
    counts = random.integers(0, 5, N_ITEMS)
    whole = popularity(counts, held_out, 4)
    monkeypatch.setattr("genrec_core.evaluation.baselines._CHUNK_USERS", 3)
    for chunked, together in zip(popularity(counts, held_out, 4), whole, strict=True):
        np.testing.assert_array_equal(chunked, together)


def test_counts_leave_out_the_validation_and_the_test_item() -> None:
    counts = training_counts(as_histories([[0, 0, 1, 2, 3], [4, 5]]), n_items=7)
    assert counts.tolist() == [2, 1, 0, 0, 1, 1, 0]


def test_of_equally_popular_items_the_lower_row_is_first() -> None:
    assert popularity_order(np.array([1, 3, 1, 3, 0])).tolist() == [1, 3, 0, 2, 4]


def test_a_target_in_its_own_history_is_counted() -> None:
    assert as_held_out([[1, 2, 1], [1, 2, 3], [4, 4, 4]]).repeated_targets() == 2


def test_neighbours_alone_rank_what_they_lift_before_what_is_popular():
    rows, bonus = np.zeros((4, 2), dtype=np.int32), np.zeros((4, 2), dtype=np.float32)
    rows[0], bonus[0] = [2, 3], [1, 2]
    neighbors = Neighbors(rows, bonus)
    scorer = NeighborScorer(neighbors, np.array([1, 9, 0, 0]))
    logits = scorer.start(padded([np.array([0], np.int32), np.array([1], np.int32)], 5)).item_logits()
    assert (-logits).argsort(axis=1, kind="stable").tolist() == [[3, 2, 1, 0], [1, 0, 2, 3]]
    with pytest.raises(GenrecError, match="generate no codes"):
        scorer.start(padded([np.array([0], np.int32)], 5)).first()
