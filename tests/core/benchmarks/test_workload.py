"""Random histories look like Beauty's where it matters for speed."""

import numpy as np

from genrec_core.benchmarks.workload import random_histories


def test_lengths_are_beautys_on_average_and_no_item_repeats() -> None:
    histories = random_histories(3000, n_items=500, seed=0)
    assert histories.lengths.min() == 5
    assert abs(histories.lengths.mean() - 8.9) < 0.4
    for user in range(50):
        assert len(np.unique(histories.of(user))) == len(histories.of(user))


def test_a_small_catalogue_bounds_the_lengths() -> None:
    assert random_histories(100, n_items=6, seed=0).lengths.max() == 6


def test_the_seed_decides() -> None:
    first, again, other = (random_histories(20, 100, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.rows, again.rows)
    assert not np.array_equal(first.rows, other.rows)
