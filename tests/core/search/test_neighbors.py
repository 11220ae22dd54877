"""Text neighbours are the nearest others, and lift an item by the best bonus that the history has for it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_core.data.histories import Histories, HistoryBatch, padded
from genrec_core.search import neighbors
from genrec_core.search.neighbors import DECAY, LEAST_BONUS, UNRELATED, Neighbors, Related, nearest_texts


def vectors(items: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(items, 4)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.mark.parametrize("chunk", [1, 50, 1 << 20])
def test_they_are_the_nearest_others(chunk: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbors, "_CHUNK_VALUES", chunk)
    texts = vectors(30)
    found = Neighbors.of(texts, 6, 2.0)
    similarity = texts @ texts.T
    np.fill_diagonal(similarity, -np.inf)
    for row in range(30):
        wanted = 2.0 * np.maximum(similarity[row] - UNRELATED, 0)
        assert found.rows[row].tolist() == sorted(set(found.rows[row].tolist()) - {row})
        np.testing.assert_allclose(found.bonus[row], wanted[found.rows[row]], atol=1e-6)
        np.testing.assert_allclose(np.sort(found.bonus[row]), np.sort(wanted)[-6:], atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 50, 1 << 20])
def test_an_item_that_followed_gets_more_the_more_often_it_did(chunk: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbors, "_CHUNK_VALUES", chunk)
    lists = [[0, 1], [0, 2, 1], [3, 3]]
    rows = np.array([row for history in lists for row in history], dtype=np.int32)
    trained = Histories(["a", "b", "c"], rows, np.cumsum([0, *map(len, lists)]))
    without = Neighbors.of(np.zeros((5, 0), np.float32), 4, 2.0, trained, 1.5)
    bonus = {
        (item, row): worth
        for item in range(5)
        for row, worth in zip(without.rows[item].tolist(), without.bonus[item].tolist(), strict=True)
        if worth
    }
    assert bonus == pytest.approx({(0, 1): 1.5 * np.log(2.5), (0, 2): 1.5 * np.log(2), (2, 1): 1.5 * np.log(2)})
    texts = vectors(5)
    both, alone = (Neighbors.of(texts, 4, 2.0, *given) for given in ((trained, 1.5), ()))
    for item in range(5):
        more = [bonus.get((item, row), 0.0) for row in both.rows[item].tolist()]
        np.testing.assert_allclose(both.bonus[item], alone.bonus[item] + more, atol=1e-6)


def walks(items: int) -> Histories:
    drawn = np.random.default_rng(3).integers(0, items, (items, 6)).astype(np.int32)
    return Histories(list(map(str, range(items))), drawn.reshape(-1), np.arange(items + 1) * 6)


@pytest.mark.parametrize(("weight", "follower"), [(2.0, 0.0), (2.0, 1.5), (0.0, 1.5), (4.0, 0.0)])
def test_a_large_catalogue_has_the_same_neighbours_where_all_cells_are_near(
    weight: float, follower: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(neighbors, "_CELL_ITEMS", 8)
    monkeypatch.setattr(neighbors, "_CHUNK_ITEMS", 70)
    every = Related(vectors(300), 299, walks(300)).neighbors(weight, follower)
    worth = np.zeros((300, 300))
    np.put_along_axis(worth, every.rows, every.bonus, axis=1)
    large = Related(vectors(300), 12, walks(300), all_pairs_items=299).neighbors(weight, follower)
    np.testing.assert_allclose(large.bonus, -np.sort(-worth, axis=1)[:, :12], atol=1e-5)
    owner, place = np.nonzero(large.bonus)
    np.testing.assert_allclose(large.bonus[owner, place], worth[owner, large.rows[owner, place]], atol=1e-5)
    pairs = np.unique(owner * 300 + large.rows[owner, place])
    assert len(pairs) == len(owner)  # each neighbour once


def test_cells_find_nearly_all_neighbours_also_of_many_equal_texts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbors, "_CELL_ITEMS", 16)
    monkeypatch.setattr(neighbors, "_NEAREST_CELLS", 16)
    texts = vectors(4000)
    texts[:500], texts[500:600] = texts[0], 0  # one text for many, and items without any
    rows, cosines = nearest_texts(texts, 10)
    similarity = texts @ texts.T
    np.fill_diagonal(similarity, -np.inf)
    assert (rows != np.arange(4000)[:, None]).all()
    np.testing.assert_allclose(cosines, np.take_along_axis(similarity, rows, axis=1), atol=1e-5)
    furthest = np.sort(similarity, axis=1)[:, -10]
    assert (cosines > furthest[:, None] - 1e-5).mean() > 0.95
    again = nearest_texts(texts, 10)
    np.testing.assert_array_equal(rows, again[0])


@pytest.mark.parametrize("chunk", [1, 50, 1 << 20])
def test_added_items_stand_behind_the_neighbours_that_were_there(chunk: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbors, "_CHUNK_VALUES", chunk)
    texts, before = vectors(40), Neighbors.of(vectors(40)[:20], 4, 2.0)
    found = before
    for first, last in ((20, 25), (25, 40)):
        found = found.extended(texts[:first], texts[first:last], 4, 2.0)
    np.testing.assert_array_equal(found.rows[:20, :4], before.rows)
    np.testing.assert_array_equal(found.bonus[:20, :4], before.bonus)
    worth = 2.0 * np.maximum(texts @ texts.T - UNRELATED, 0)
    np.fill_diagonal(worth, -1)
    for row in range(40):
        there = 20 if row < 20 else 25 if row < 25 else 40  # items when this one came
        own = np.sort(worth[row, :there])[-4:]
        np.testing.assert_allclose(np.sort(found.bonus[row, :4]), own, atol=1e-6)
        later = np.sort([value for value in worth[row, there:] if value > own[0]])[-4:]
        kept = found.bonus[row] > 0
        np.testing.assert_allclose(np.sort(found.bonus[row, 4:][kept[4:]]), later, atol=1e-6)
        np.testing.assert_allclose(found.bonus[row, kept], worth[row, found.rows[row, kept]], atol=1e-6)


@pytest.mark.parametrize(("items", "count", "left"), [(3, 10, 2), (1, 10, 0)])
def test_a_small_catalogue_has_fewer(items: int, count: int, left: int):
    found = Neighbors.of(vectors(items), count, 1.0)
    assert found.rows.shape == found.bonus.shape == (items, left)
    logits = np.zeros((1, items), dtype=np.float32)
    found.lift(logits, padded([np.array([0], np.int32)], 5).flat())
    assert np.isfinite(logits).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 19), min_size=1, max_size=9), min_size=1, max_size=4))
def test_an_item_is_lifted_by_its_best_bonus_and_the_newest_item_counts_most(histories: list[list[int]]):
    found = Neighbors.of(vectors(20), 5, 3.0)
    logits = np.random.default_rng(1).normal(size=(len(histories), 20)).astype(np.float32)
    lifted = logits.copy()
    found.lift(lifted, padded([np.array(history, np.int32) for history in histories], 6).flat())
    for user, history in enumerate(histories):
        bonus = np.zeros(20)
        for age, item in enumerate(reversed(history[-6:])):
            for row, worth in zip(found.rows[item], found.bonus[item], strict=True):
                bonus[row] = max(bonus[row], worth * DECAY**age)
        bonus[bonus <= LEAST_BONUS] = 0
        np.testing.assert_allclose(lifted[user], logits[user] + bonus, atol=1e-5)


@pytest.mark.filterwarnings("error")
def test_any_amount_of_padding_lifts_nothing():
    lifting = Neighbors(np.array([[1], [0], [0]], dtype=np.int32), np.ones((3, 1), dtype=np.float32))
    rows = np.full((1, 5000), -1, dtype=np.int32)
    rows[0, 0] = 1
    logits = np.zeros((1, 3), dtype=np.float32)
    lifting.lift(logits, HistoryBatch(rows, np.array([1], dtype=np.int32)).flat())
    assert logits.tolist() == [[1, 0, 0]]
