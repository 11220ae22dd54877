"""Slices: each user is in one slice of each kind."""

import numpy as np
import pytest

from genrec_core.evaluation.evaluate import metrics_by_slice, slice_names


@pytest.mark.parametrize(
    ("length", "name"), [(1, "<=5"), (5, "<=5"), (6, "6-10"), (10, "6-10"), (11, "11-20"), (20, "11-20"), (21, ">20")]
)
def test_a_history_falls_into_the_slice_that_names_its_length(length: int, name: str) -> None:
    assert slice_names("history_length", np.array([length])).tolist() == [name]


@pytest.mark.parametrize(
    ("count", "name"),
    [(0, "0"), (1, "1-5"), (5, "1-5"), (6, "6-20"), (20, "6-20"), (21, "21-100"), (100, "21-100"), (101, ">100")],
)
def test_a_target_falls_into_the_slice_that_names_its_count(count: int, name: str) -> None:
    assert slice_names("target_popularity", np.array([count])).tolist() == [name]


def test_each_row_has_the_means_of_its_users_and_an_empty_one_has_none() -> None:
    lengths, ranks, popular = np.array([3, 4, 8, 30]), np.array([0, -1, 50, 2]), np.array([-1, 3, 4, 5])
    slices = metrics_by_slice({"history_length": lengths}, ranks, popular, np.arange(4), 1000, samples=20, seed=0)
    rows = slices["history_length"]
    assert [row["slice"] for row in rows] == ["<=5", "6-10", "11-20", ">20"]
    assert [row["users"] for row in rows] == [2, 1, 0, 1]
    assert [row["recall@10"] for row in rows] == [0.5, 0.0, None, 1.0]
    assert [row["recall@100"] for row in rows] == [0.5, 1.0, None, 1.0]
    assert [row["ndcg@10"] for row in rows] == [0.5, 0.0, None, 0.5]
    assert [row["popularity_recall@10"] for row in rows] == [0.5, 1.0, None, 1.0]
    assert all(row["recall@10_low"] <= row["recall@10"] <= row["recall@10_high"] for row in rows if row["users"])


def test_metrics_that_the_beams_cannot_give_are_none() -> None:
    one = np.array([0])
    slices = metrics_by_slice({"history_length": np.array([3])}, one, one, one, 50, samples=20, seed=0)
    assert [row["recall@100"] for row in slices["history_length"]] == [None] * 4
