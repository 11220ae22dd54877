"""Recall, NDCG and intervals against loops that follow their definitions."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_core.evaluation.metrics import (
    RECALL_CUTOFFS,
    RankingResult,
    bootstrap_intervals,
    bootstrap_means,
    deepest_cutoff,
    exposure,
    gini,
    mean_metrics,
    ndcg_gains,
    recall_hits,
    summarize,
    user_metrics,
)

DEEP = deepest_cutoff(beams=1000, n_items=12_101)
ranks_of_users = st.lists(st.integers(-1, 1200), min_size=1, max_size=60)


@given(ranks_of_users, st.sampled_from([1, *RECALL_CUTOFFS]))
def test_recall_and_ndcg_equal_a_loop_over_users(ranks: list[int], k: int) -> None:
    hits, gains = [], []
    for rank in ranks:
        listed = 0 <= rank < k
        hits.append(1.0 if listed else 0.0)
        gains.append(1.0 / math.log2(rank + 2) if listed else 0.0)
    np.testing.assert_array_equal(recall_hits(np.array(ranks), k), hits)
    np.testing.assert_allclose(ndcg_gains(np.array(ranks), k), gains)


@given(ranks_of_users)
@settings(max_examples=25)
def test_summary_holds_every_mean_within_its_interval_range(ranks: list[int]) -> None:
    summary = summarize(np.array(ranks), np.arange(len(ranks)), DEEP, samples=50, seed=1)
    names = [f"recall@{k}" for k in RECALL_CUTOFFS] + [f"ndcg@{k}" for k in (5, 10)]
    assert sorted(summary) == sorted([*names, *(f"{name}_interval" for name in names)])
    recalls = [summary[f"recall@{k}"] for k in RECALL_CUTOFFS]
    assert recalls == sorted(recalls)
    for name in names:
        low, high = summary[f"{name}_interval"]
        assert 0 <= low <= high <= 1
        assert summary[name] == pytest.approx(np.mean(_by_hand(ranks, name)))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-1, 12)), min_size=1, max_size=40))
def test_a_user_with_many_targets_counts_as_one_with_a_single_target(pairs: list[tuple[int, int]]) -> None:
    users, ranks = np.array(pairs).T
    by_user = [np.mean(_by_hand(ranks[users == user].tolist(), "ndcg@10")) for user in sorted(set(users.tolist()))]
    np.testing.assert_allclose(user_metrics(ranks, users, DEEP)["ndcg@10"], by_user)
    assert mean_metrics(ranks, users, DEEP)["ndcg@10"] == pytest.approx(np.mean(by_user))


def test_the_interval_is_over_users_and_many_targets_of_one_do_not_narrow_it() -> None:
    ranks = np.where(np.random.default_rng(0).random(40) < 0.5, 0, -1)
    once = summarize(ranks, np.arange(40), DEEP, samples=200, seed=0)
    assert summarize(np.repeat(ranks, 50), np.repeat(np.arange(40), 50), DEEP, samples=200, seed=0) == once


def _by_hand(ranks: list[int], name: str) -> list[float]:
    kind, k = name.split("@")
    inside = [0 <= rank < int(k) for rank in ranks]
    if kind == "recall":
        return [float(hit) for hit in inside]
    return [1 / math.log2(rank + 2) if hit else 0.0 for rank, hit in zip(ranks, inside, strict=True)]


@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 5))
@settings(max_examples=25)
def test_bootstrap_means_equal_a_loop_over_the_same_draws(users: int, metrics: int, seed: int) -> None:
    values = np.random.default_rng(99).random((users, metrics))
    random = np.random.default_rng(seed)
    expected = [values[random.integers(0, users, users)].mean(axis=0) for _ in range(12)]
    np.testing.assert_allclose(bootstrap_means(values, 12, seed), expected)


def test_bootstrap_means_do_not_depend_on_how_draws_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((30, 2))
    whole = bootstrap_means(values, 50, seed=3)
    monkeypatch.setattr("genrec_core.evaluation.metrics._CHUNK_DRAWS", 100)
    np.testing.assert_allclose(bootstrap_means(values, 50, seed=3), whole, rtol=1e-12)


def test_the_interval_of_a_share_is_as_wide_as_the_normal_approximation_says() -> None:
    hits = np.zeros((20_000, 1))
    hits[:1000] = 1.0
    low, high = bootstrap_intervals(hits, 1000, seed=0)[0]
    half = 1.96 * math.sqrt(0.05 * 0.95 / 20_000)
    assert low == pytest.approx(0.05 - half, abs=0.0006)
    assert high == pytest.approx(0.05 + half, abs=0.0006)


def test_intervals_repeat_for_a_seed_and_differ_for_another() -> None:
    values = np.random.default_rng(0).random((200, 3))
    first = bootstrap_intervals(values, 100, seed=5)
    np.testing.assert_array_equal(first, bootstrap_intervals(values, 100, seed=5))
    assert not np.array_equal(first, bootstrap_intervals(values, 100, seed=6))


def test_a_thousand_resamples_of_beautys_users_take_seconds() -> None:
    ranks = np.random.default_rng(0).integers(-1, 12_101, 22_363)
    began = time.process_time()
    summarize(ranks, np.arange(len(ranks)), DEEP, samples=1000, seed=0)
    assert time.process_time() - began < 10


def test_cutoffs_beyond_the_beams_are_left_out() -> None:
    summary = summarize(np.array([3]), np.arange(1), deepest_cutoff(beams=60, n_items=5000), samples=10, seed=0)
    names = [name for name in summary if name.startswith("recall") and "interval" not in name]
    assert names == ["recall@5", "recall@10", "recall@50"]


def test_a_ranking_of_a_whole_small_catalogue_has_every_metric() -> None:
    summary = summarize(np.array([79, 0]), np.arange(2), deepest_cutoff(beams=80, n_items=80), samples=10, seed=0)
    assert {f"recall@{k}" for k in RECALL_CUTOFFS} < set(summary)
    assert summary["recall@1000"] == 1.0


def test_exposure_counts_the_users_who_see_an_item_at_the_top_of_their_list() -> None:
    lists = np.array([[0, 1, 2], [1, 0, -1]], dtype=np.int32)
    ranking = RankingResult(np.array([0, 0]), lists, np.array([0, 1]), np.zeros(4, dtype=bool))
    assert exposure(ranking, 2).tolist() == [2, 2, 0, 0]
    assert exposure(ranking, 3).tolist() == [2, 2, 1, 0]


def test_gini_is_zero_for_equal_shares_and_near_one_where_one_item_takes_all() -> None:
    assert gini(np.full(50, 3)) == pytest.approx(0.0)
    assert gini(np.array([0] * 99 + [7])) == pytest.approx(0.99)
    assert gini(np.array([1, 3])) == pytest.approx(0.25)
    assert gini(np.zeros(4, dtype=np.int64)) == 0.0
