"""Scores and places of given items, against the scores of all items and against the search's own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_core.data.histories import HistoryBatch
from genrec_core.errors import GenrecError
from genrec_core.search import given_items, key_index
from genrec_core.search.beams import Lifted
from genrec_core.search.generative import beam_search, exact_scores
from genrec_core.search.given_items import places_of_items, scores_of_items
from genrec_core.search.key_index import Matches
from genrec_core.search.trie import CodeTrie
from tests.core.search.test_generative import HISTORIES, DenseHashScorer, HashSession, catalogues, lifts, masks
from tests.core.search.test_key_index import INDEX, ITEMS, LIFTED, QUERIES, TRIE, USERS

weights = st.sampled_from([0.0, 0.3, 1.0])


@settings(max_examples=100, deadline=None)
@given(catalogues(), st.data(), weights)
def test_they_have_the_scores_that_all_items_have(catalogue, data, weight):
    trie = CodeTrie.build(*catalogue)
    scorer = DenseHashScorer(trie.level_sizes, trie.n_items, lifts(data, trie.n_items))
    rows = np.array(data.draw(st.lists(st.integers(0, trie.n_items - 1), max_size=8)), dtype=np.int64)
    scores = scores_of_items(scorer, trie, HISTORIES, rows, weight)
    np.testing.assert_allclose(scores, exact_scores(scorer, trie, HISTORIES, weight)[:, rows], atol=1e-4)


@settings(max_examples=100, deadline=None)
@given(catalogues(), st.data(), weights)
def test_their_places_are_those_of_the_list(catalogue, data, weight):
    trie = CodeTrie.build(*catalogue)
    allowed, excluded = masks(data, trie.n_items)
    scorer = DenseHashScorer(trie.level_sizes, trie.n_items, lifts(data, trie.n_items))
    rows = np.arange(trie.n_items)
    places = places_of_items(scorer, trie, HISTORIES, rows, weight, allowed, excluded)
    options = {"beams": trie.n_items, "top_k": trie.n_items, "allowed": allowed, "excluded": excluded}
    for user, items in enumerate(beam_search(scorer, trie, HISTORIES, dense_weight=weight, **options).items.tolist()):
        assert places[user].tolist() == [items.index(row) + 1 if row in items else 0 for row in rows.tolist()]


def test_many_items_are_scored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    trie = CodeTrie.build(np.stack(np.unravel_index(np.arange(60), (3, 4, 5)), axis=1), (3, 4, 5))
    scorer = DenseHashScorer(trie.level_sizes, 60)
    whole = scores_of_items(scorer, trie, HISTORIES, np.arange(60), 0.5)
    monkeypatch.setattr(given_items, "_PATHS", 21)
    np.testing.assert_allclose(scores_of_items(scorer, trie, HISTORIES, np.arange(60), 0.5), whole, atol=1e-5)


def test_only_prefixes_of_the_items_that_branch_are_scored() -> None:
    codes = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 0], [2, 0, 0]])
    scorer = DenseHashScorer((3, 2, 2), 6)
    scores_of_items(scorer, CodeTrie.build(codes, (3, 2, 2)), HISTORIES, np.array([1, 0, 2, 5]))
    assert scorer.calls == [3, 3, 3]  # of three users each: the root, the prefix 0 and the prefix 0 0


class LargeScorer(DenseHashScorer):
    """A decoder of hashes, and a dense head whose keys are rounded and have sketches."""

    def start(self, histories: HistoryBatch) -> "LargeSession":
        keys = [row[:length].tobytes() for row, length in zip(histories.rows, histories.lengths, strict=True)]
        return LargeSession(self, keys)


class LargeSession(HashSession):
    def matches(self, trie: CodeTrie) -> Matches:
        return Matches(INDEX, QUERIES, LIFTED)

    def lifted(self) -> Lifted:
        return LIFTED


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_in_a_large_catalogue_they_have_the_scores_of_a_list(weight: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "LEAST_SCORED", 400)
    monkeypatch.setattr(key_index, "_SCORED_OF_LIST", 1)
    random = np.random.default_rng(2)
    histories = HistoryBatch(np.arange(USERS, dtype=np.int32)[:, None], np.ones(USERS, dtype=np.int32))
    allowed, excluded = random.random(ITEMS) < 0.9, random.integers(-1, ITEMS, (USERS, 30)).astype(np.int32)
    scorer, filters = LargeScorer(TRIE.level_sizes, ITEMS), {"allowed": allowed, "excluded": excluded}
    ranked = beam_search(scorer, TRIE, histories, beams=ITEMS, top_k=50, dense_weight=weight, **filters)
    for user, items in enumerate(ranked.items):
        scores = scores_of_items(scorer, TRIE, histories, items, weight, **filters)[user]
        np.testing.assert_allclose(scores, ranked.scores[user], atol=1e-4)


def test_a_dense_head_that_gives_no_numbers_is_an_error() -> None:
    class Broken(DenseHashScorer):
        def start(self, histories: HistoryBatch) -> HashSession:
            session = super().start(histories)
            session.item_logits = lambda: np.full((3, 2), np.nan, dtype=np.float32)
            return session

    with pytest.raises(GenrecError, match="not numbers"):
        scores_of_items(Broken((2,), 2), CodeTrie.build(np.array([[0], [1]]), (2,)), HISTORIES, np.array([0]), 1.0)
