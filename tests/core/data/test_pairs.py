"""Whether the order of purchases means something."""

import numpy as np
import pytest

from genrec_core.data.histories import Histories
from genrec_core.data.pairs import order_strength


def histories_of(rows: np.ndarray) -> Histories:
    users, length = rows.shape
    return Histories([str(user) for user in range(users)], rows.reshape(-1), np.arange(users + 1) * length)


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
