"""Which items stand near each other, and whether the order of purchases means something."""

import numpy as np
import pytest

from genrec_core.data import pairs
from genrec_core.data.histories import Histories
from genrec_core.data.pairs import order_strength, pair_counts


def histories_of(rows: np.ndarray) -> Histories:
    users, length = rows.shape
    return Histories([str(user) for user in range(users)], rows.reshape(-1), np.arange(users + 1) * length)


@pytest.mark.parametrize("by_distance", [True, False])
@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_pairs_count_by_the_inverse_of_their_distance_or_as_one(
    chunk: int, both_ways: bool, by_distance: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "_CHUNK_PLACES", chunk)
    walks = np.random.default_rng(0).integers(0, 9, (6, 8))  # items come back, and item 9 is nobody's
    wanted: dict[int, float] = {}
    for walk in walks.tolist():
        for place, first in enumerate(walk):
            for other, second in enumerate(walk):
                distance = other - place if other > place or not both_ways else place - other
                if 0 < distance <= 3 and first != second:
                    wanted[first * 10 + second] = wanted.get(first * 10 + second, 0) + (
                        1 / distance if by_distance else 1
                    )
    found, counts = pair_counts(histories_of(walks), 10, 3, both_ways, by_distance)
    assert found.tolist() == sorted(wanted)
    assert counts == pytest.approx([wanted[pair] for pair in sorted(wanted)])
    assert pair_counts(histories_of(walks[:0]), 10, 3)[0].tolist() == []


def test_the_order_is_strong_where_an_item_has_few_successors_and_absent_where_purchases_are_shuffled() -> None:
    random = np.random.default_rng(0)
    successors, walks = random.integers(0, 50, (50, 2)), [random.integers(0, 50, 400)]
    for _ in range(8):
        followed = successors[walks[-1], random.integers(0, 2, 400)]
        walks.append(np.where(random.random(400) < 0.3, random.integers(0, 50, 400), followed))
    walk = np.stack(walks, axis=1)
    assert order_strength(histories_of(walk), 50) > 5
    assert order_strength(histories_of(random.permuted(walk, axis=1)), 50) == pytest.approx(1, abs=0.2)


def test_a_cycle_has_nothing_but_order() -> None:
    assert order_strength(histories_of((np.arange(30)[:, None] + np.arange(5)) % 10), 10) == float("inf")


@pytest.mark.parametrize("rows", [np.zeros((1, 1), int), np.arange(2)[None], np.arange(6).reshape(2, 3)])
def test_too_few_purchases_have_no_order(rows: np.ndarray) -> None:
    assert order_strength(histories_of(rows), 6) == 1
