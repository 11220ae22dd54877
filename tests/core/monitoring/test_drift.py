"""Drift is nothing on the same data, has known values on small ones, and grows with what changed."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from genrec_core.monitoring.drift import (
    Profile,
    length_shift,
    popularity_shift,
    shannon_distance,
    stability_index,
    unknown_entries,
)

COUNTS = st.lists(st.integers(0, 1000), min_size=2, max_size=20).filter(any)


def bought(*histories: list[int]) -> pl.DataFrame:
    frame = {"user_id": [str(user) for user in range(len(histories))], "item_ids": list(histories)}
    return pl.DataFrame(frame, schema={"user_id": pl.String, "item_ids": pl.List(pl.Int64)})


def test_the_same_data_have_not_drifted() -> None:
    histories = bought([1, 2, 3, 4], [2, 3, 9], [5])
    profile = Profile.of(histories)
    assert length_shift(profile.lengths, profile.lengths) == 0
    assert popularity_shift(profile, profile) == 0


def test_unknown_entries_are_counted() -> None:
    known = pl.Series([1, 2, 3])
    assert unknown_entries(pl.Series([1, 7, 8, 2, 3, 3]), known) == (2, 2 / 6)
    assert unknown_entries(pl.Series([1, 2]), known) == (0, 0)
    assert unknown_entries(pl.Series([], dtype=pl.Int64), known) == (0, 0)
    assert unknown_entries(pl.Series(["b c", "1", "b c"]), pl.Series(["b c"])) == (1, 1 / 3)
    assert unknown_entries(pl.Series(["1", "2"]), known) == (2, 1)


def test_the_stability_index_has_its_textbook_value() -> None:
    """Large counts, so that the half added to each bin does not show."""
    expected, actual = np.array([50, 30, 20]) * 10**9, np.array([40, 30, 30]) * 10**9
    by_hand = (0.4 - 0.5) * np.log(0.4 / 0.5) + (0.3 - 0.2) * np.log(0.3 / 0.2)
    assert stability_index(expected, actual) == pytest.approx(by_hand, rel=1e-6)
    assert np.isfinite(stability_index(np.array([10, 0]), np.array([0, 10])))


def test_lengths_beyond_those_trained_on_are_seen() -> None:
    trained = np.bincount([3, 4, 5, 5, 6, 7, 8, 9, 10, 12] * 100)
    assert length_shift(trained, np.bincount([3, 4, 5, 5, 6, 7, 8, 9, 10, 13] * 100)) < 0.01
    assert length_shift(trained, np.bincount([40] * 1000)) > 1
    assert length_shift(trained, np.bincount([3] * 1000)) > 1


def test_lengths_of_which_one_is_the_rule_still_give_bins() -> None:
    trained = np.bincount([3] * 990 + [9] * 10)
    assert length_shift(trained, np.bincount([3] * 500 + [9] * 500)) > 0.25


@given(COUNTS, COUNTS)
def test_the_distance_of_two_histograms_is_scipys(first: list[int], second: list[int]) -> None:
    size = max(len(first), len(second))
    p, q = (np.pad(counts, (0, size - len(counts))) for counts in (first, second))
    assert shannon_distance(p, q) == pytest.approx(np.nan_to_num(jensenshannon(p, q, 2)), abs=1e-7)


def test_popularity_is_compared_over_the_items_of_both() -> None:
    first, other = Profile.of(bought([1, 2, 3, 4], [1, 2, 4])), Profile.of(bought([7, 8, 9, 9], [7, 8, 9]))
    assert popularity_shift(first, other) == pytest.approx(1)
    nobody = Profile(np.array([1]), np.array([0]), np.array([0, 0]))
    assert popularity_shift(first, nobody) == 1
    assert popularity_shift(nobody, nobody) == 0
