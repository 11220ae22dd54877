"""A large catalogue, of which only the keys with the best sketches are read, against scoring every item."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_core.errors import GenrecError
from genrec_core.search import key_index
from genrec_core.search.beams import Lifted
from genrec_core.search.hybrid import DenseGuide, ShortGuide
from genrec_core.search.key_index import KeyIndex, KeySketches, Matches, RoundedKeys
from genrec_core.search.trie import CodeTrie

ITEMS, WIDTH, USERS = 4000, 12, 6
SIZES = (8, 8, 8, 64)


def catalogue(noise: float) -> tuple[CodeTrie, np.ndarray, np.ndarray]:
    """A trie, keys near the sum of a vector for each of the first two tokens, and queries near some keys."""
    random = np.random.default_rng(5)
    tokens = random.integers(0, 8, (ITEMS, 3))
    order = np.lexsort(tokens.T[::-1])
    new = np.append(True, (np.diff(tokens[order], axis=0) != 0).any(axis=1))
    suffix = np.empty(ITEMS, dtype=np.int64)
    suffix[order] = np.arange(ITEMS) - np.maximum.accumulate(np.where(new, np.arange(ITEMS), 0))
    trie = CodeTrie.build(np.column_stack([tokens, suffix]), SIZES)
    parts = random.normal(size=(2, 8, WIDTH))
    keys = parts[0, tokens[:, 0]] + parts[1, tokens[:, 1]] + noise * random.normal(size=(ITEMS, WIDTH))
    queries = keys[random.integers(ITEMS, size=USERS)] + 0.3 * random.normal(size=(USERS, WIDTH))
    return trie, keys.astype(np.float32), queries.astype(np.float32)


TRIE, KEYS, QUERIES = catalogue(noise=0.3)
INDEX = KeyIndex(TRIE, RoundedKeys.of(KEYS))
NOTHING = np.zeros((USERS, 8), dtype=np.float32)
LIFTED = Lifted(np.repeat(np.arange(USERS), 3), np.tile([7, 2000, 3999], USERS), np.full(3 * USERS, 9.0, np.float32))


@pytest.fixture
def scores_few(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda items: monkeypatch.setattr(key_index, "LEAST_SCORED", items)


def exact_logits() -> np.ndarray:
    logits = QUERIES @ KEYS.T
    logits[LIFTED.user, LIFTED.row] += LIFTED.bonus
    return logits


def test_rounded_keys_give_nearly_the_same_logits() -> None:
    keys = KEYS * np.logspace(-3, 3, ITEMS, dtype=np.float32)[:, None]
    keys[5] = 0
    logits, exact = RoundedKeys.of(keys).all_logits(QUERIES), QUERIES @ keys.T
    error = np.abs(logits - exact) / np.maximum(np.linalg.norm(keys, axis=1), 1e-9)
    assert error.max() < 1e-3
    assert not logits[:, 5].any()


def test_keys_that_are_no_numbers_are_refused() -> None:
    for value in (np.nan, np.inf):
        with pytest.raises(GenrecError, match="are not numbers; train the model again"):
            RoundedKeys.of(np.array([[1.0, value], [0.0, 1.0]], dtype=np.float32))


def test_sketches_of_all_directions_give_the_logits_of_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "_CHUNK", 100)
    directions, products = KeySketches.of(RoundedKeys.of(KEYS), TRIE.leaf_row)
    np.testing.assert_allclose(QUERIES @ directions @ products, QUERIES @ KEYS[TRIE.leaf_row].T, atol=0.02)


def test_few_directions_tell_most_of_what_the_keys_differ_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "_DIRECTIONS", 2)
    random = np.random.default_rng(1)
    keys = random.normal(size=(500, 2)) @ random.normal(size=(2, WIDTH)) + 3 + 0.01 * random.normal(size=(500, WIDTH))
    directions, products = KeySketches.of(RoundedKeys.of(keys.astype(np.float32)), np.arange(500))
    assert (directions.shape, products.shape) == ((WIDTH, 2), (2, 500))
    shift = QUERIES @ directions @ products - QUERIES @ keys.T  # the same for all items of a user
    assert np.std(shift, axis=1).max() < 0.1


@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_where_all_items_are_scored_it_is_the_exact_guide(weight: float) -> None:
    excluded = np.array([[7, -1], [0, 1], [2, 3], [4, 3999], [-1, -1], [9, 8]])
    allowed = np.arange(ITEMS) % 3 > 0
    exact = DenseGuide(TRIE, exact_logits(), weight, allowed, excluded)
    short = ShortGuide(Matches(INDEX, QUERIES, LIFTED), NOTHING, 1000, weight, allowed, excluded)
    expected, found = exact.best(50), short.best(50)
    np.testing.assert_array_equal(found.items, expected.items)
    shift = found.scores - expected.scores  # the probability of what is left out is shared by the others
    np.testing.assert_allclose(shift, shift[:, :1].repeat(50, axis=1), atol=1e-3)
    end = exact.likely_list_end(NOTHING, 50)
    one, other = exact.candidates(NOTHING, end), short.candidates(NOTHING, end + weight * shift[:, 0])
    keys = [of.user * ITEMS + of.leaf for of in (one, other)]
    assert len(np.setxor1d(*keys)) <= 0.02 * len(one.leaf)  # those at the very end


def test_reading_a_tenth_of_the_keys_finds_the_best_items_and_every_lifted_one(
    scores_few: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores_few(ITEMS // 10)
    monkeypatch.setattr(key_index, "_DIRECTIONS", 8)
    guide = ShortGuide(Matches(KeyIndex(TRIE, RoundedKeys.of(KEYS)), QUERIES, LIFTED), NOTHING, 20, 1.0)
    assert np.bincount(guide.user).max() <= ITEMS // 10 + 3
    best = np.argsort(-exact_logits(), axis=1)[:, :20]
    found = guide.best(20).items
    shares = [len(np.intersect1d(*lists)) / 20 for lists in zip(best, found, strict=True)]
    assert np.mean(shares) > 0.97
    rows = TRIE.leaf_row[guide.leaf]
    assert all(set(LIFTED.row[:3].tolist()) <= set(rows[guide.user == user].tolist()) for user in range(USERS))


def test_a_likely_prefix_of_the_decoder_brings_its_items(scores_few: Callable[[int], None]) -> None:
    scores_few(ITEMS // 20)
    likely = NOTHING.copy()
    likely[:, 3] = 100.0
    guide = ShortGuide(Matches(INDEX, QUERIES, None), likely, 10, 0.5)
    assert (TRIE.leaf_node[1][guide.leaf] == 3).all()


@given(st.sets(st.integers(0, ITEMS - 1), max_size=40))
def test_few_allowed_items_are_all_scored(rows: set[int]) -> None:
    allowed = np.isin(np.arange(ITEMS), list(rows))
    shortlist = Matches(INDEX, QUERIES, LIFTED).shortlist(10, NOTHING, allowed)
    for user in range(USERS):
        assert sorted(TRIE.leaf_row[shortlist.leaf[shortlist.user == user]].tolist()) == sorted(rows)
    ranked = ShortGuide(Matches(INDEX, QUERIES, LIFTED), NOTHING, 10, 1.0, allowed).best(10)
    assert ((ranked.items >= 0).sum(axis=1) == min(10, len(rows))).all()


def test_a_user_who_had_all_that_matches_best_gets_a_full_list(scores_few: Callable[[int], None]) -> None:
    scores_few(100)
    seen = np.sort(np.argsort(-exact_logits(), axis=1)[:, :1000], axis=1)
    short = ShortGuide(Matches(INDEX, QUERIES, LIFTED), NOTHING, 5, 0.5, None, seen)
    listed = short.best(5)
    assert (listed.items >= 0).all()
    assert not any(np.isin(items, own).any() for items, own in zip(listed.items, seen, strict=True))
