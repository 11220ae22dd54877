"""Slices: each user is in one slice of each kind."""

import numpy as np
import polars as pl
import pytest

from genrec_core.evaluation.evaluate import metrics_by_slice, slice_names, slices_as_json


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
    frame = metrics_by_slice({"history_length": lengths}, ranks, popular, 1000, samples=20, seed=0)
    assert frame["users"].to_list() == [2, 1, 0, 1]
    assert frame["recall@10"].to_list() == [0.5, 0.0, None, 1.0]
    assert frame["recall@100"].to_list() == [0.5, 1.0, None, 1.0]
    assert frame["ndcg@10"].to_list() == [0.5, 0.0, None, 0.5]
    assert frame["popularity_recall@10"].to_list() == [0.5, 1.0, None, 1.0]
    assert (frame["recall@10_low"] <= frame["recall@10"]).drop_nulls().all()


def test_metrics_that_the_beams_cannot_give_are_null() -> None:
    one = np.array([0])
    frame = metrics_by_slice({"history_length": np.array([3])}, one, one, 50, samples=20, seed=0)
    assert frame["recall@100"].to_list() == [None] * 4


def test_json_groups_rows_by_what_they_slice_by() -> None:
    frame = pl.DataFrame({"by": ["a", "a", "b"], "slice": ["x", "y", "z"], "users": [1, 2, 3]})
    assert slices_as_json(frame) == {
        "a": [{"slice": "x", "users": 1}, {"slice": "y", "users": 2}],
        "b": [{"slice": "z", "users": 3}],
    }
